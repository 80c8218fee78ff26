"""Training that looks odd from outside and is well: parts that rest, losses in other units, several optimizers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradtrace.casebook.case import Setup, healthy, seeded
from gradtrace.casebook.networks import HE, Attention, Block, TokenModel, conv_net, layer, mlp, scale_weights
from gradtrace.casebook.tasks import (
    cross_entropy,
    digit_batches,
    image_batches,
    number_batches,
    squared_error,
    token_batches,
    token_cross_entropy,
    train,
)


@seeded
def converged() -> Setup:
    """A network trained to a loss of 1e-3 and below: small gradients because there is nothing left to learn."""
    model = mlp(2, nn.ReLU)
    batches = digit_batches()
    train(model, batches, cross_entropy, 150, lr=3e-3)
    return Setup(model, cross_entropy, batches, torch.optim.Adam(model.parameters(), lr=1e-4))


@seeded
def converged_regression() -> Setup:
    """A regression trained down to the noise of its targets: a loss that stays, gradients that cancel."""
    model = mlp(2, nn.Tanh, inputs=16, outputs=1)
    batches = [(x, y + 0.5 * torch.randn_like(y)) for x, y in number_batches(256)]
    train(model, batches, squared_error, 60, lr=3e-3)
    return Setup(model, squared_error, batches)


@seeded
def frozen_backbone() -> Setup:
    """Fine-tuning: the features do not ask for gradients, the optimizer holds the head."""
    model = conv_net(4, nn.ReLU)
    scale_weights(model, HE)
    layer(model, "features").requires_grad_(False)
    return Setup(model, cross_entropy, image_batches(), torch.optim.SGD(layer(model, "head").parameters(), lr=0.1))


class TwoHeads(nn.Module):
    """One body, two tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.heads = nn.ModuleDict({"digit": nn.Linear(64, 10), "parity": nn.Linear(64, 2)})

    def forward(self, x: Tensor, task: str) -> Tensor:
        """[batch, 64] -> [batch, classes of the task]."""
        out: Tensor = self.heads[task](self.body(x))
        return out


def task_cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """Of the batch's own task."""
    pixels, labels, task = batch
    return F.cross_entropy(model(pixels, task), labels)


@seeded
def unused_head() -> Setup:
    """Two tasks by turns: in these batches the second head rests."""
    model = TwoHeads()
    batches = [(pixels, labels, "digit") for pixels, labels in digit_batches()]
    return Setup(model, task_cross_entropy, batches, torch.optim.Adam(model.parameters(), lr=1e-3))


class Experts(nn.Module):
    """Top-1 routing over `count` experts, each token's output weighted by its gate."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.router = nn.Linear(dim, count)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim)) for _ in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, dim] -> the same."""
        gates, chosen = torch.softmax(self.router(x), dim=-1).max(dim=-1)
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            picked = chosen == index
            if picked.any():
                out[picked] = gates[picked].unsqueeze(1) * expert(x[picked])
        return out


class ExpertBlock(nn.Module):
    """Pre-norm block around experts."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.norm, self.moe = nn.LayerNorm(dim), Experts(dim, count)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, dim] -> the same."""
        out: Tensor = x + self.moe(self.norm(x))
        return out


@seeded
def unrouted_experts() -> Setup:
    """16 experts and 32 tokens: some experts get no token in a batch, and no gradient."""
    model = TokenModel([ExpertBlock(32, 16)], 32)
    return Setup(model, token_cross_entropy, token_batches(4, 8))


@seeded
def mixture_of_experts() -> Setup:
    """A transformer with top-1 routing to 4 experts: argmax chooses, the gate carries the gradient."""
    model = TokenModel([Block(32, Attention(32)), ExpertBlock(32, 4), Block(32, Attention(32)), ExpertBlock(32, 4)], 32)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return Setup(model, token_cross_entropy, token_batches(), optimizer)


class BagOfWords(nn.Module):
    """Sparse embedding of a large vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(2000, 16, sparse=True), nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        """[batch, length] -> [batch, 4]."""
        out: Tensor = self.head(torch.tanh(self.embedding(tokens).mean(1)))
        return out


@seeded
def sparse_embedding() -> Setup:
    """2000 words of which a batch sees a few: a sparse gradient, nearly all rows untouched; two optimizers."""
    model = BagOfWords()
    batches = [(torch.randint(2000, (16, 8)), torch.randint(4, (16,))) for _ in range(2)]
    sparse = torch.optim.SparseAdam(model.embedding.parameters(), lr=1e-2)
    return Setup(model, cross_entropy, batches, [sparse, torch.optim.Adam(model.head.parameters(), lr=1e-2)])


@seeded
def tied_weights() -> Setup:
    """Embedding and output share one matrix: its gradient is the sum of two."""
    model = TokenModel([Block(32, Attention(32, causal=True)) for _ in range(3)], 32)
    with torch.no_grad():
        model.embedding.weight.mul_(32**-0.5)
    model.head.weight = model.embedding.weight
    return Setup(model, token_cross_entropy, token_batches(), torch.optim.Adam(model.parameters(), lr=1e-3))


@seeded
def accumulation() -> Setup:
    """Four batches per optimizer step."""
    model = mlp(2, nn.ReLU)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Setup(model, cross_entropy, digit_batches(16, 4), optimizer)


def nano_cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """In units of 1e9."""
    return 1e-9 * cross_entropy(model, batch)


@seeded
def tiny_units() -> Setup:
    """A loss in units that make it 1e-9, with a learning rate to match: every gradient is tiny, every step is right."""
    model = mlp(4, nn.ReLU)
    scale_weights(model, HE)
    return Setup(model, nano_cross_entropy, digit_batches(), torch.optim.SGD(model.parameters(), lr=0.05e9))


def giga_square(model: nn.Module, batch: Any) -> Tensor:
    """In units of 1e-9."""
    return 1e9 * squared_error(model, batch)


@seeded
def huge_units() -> Setup:
    """A loss in units that make it 1e9, with Adam, which does not see units."""
    model = mlp(3, nn.Tanh, inputs=16, outputs=1)
    return Setup(model, giga_square, number_batches(), torch.optim.Adam(model.parameters(), lr=1e-3))


def summed_digits(model: nn.Module, batch: Any) -> Tensor:
    """Sum over the batch."""
    pixels, labels = batch
    return F.cross_entropy(model(pixels), labels, reduction="sum")


@seeded
def summed_loss_small_rate() -> Setup:
    """reduction="sum" with a learning rate that was set for it."""
    model = mlp(2, nn.ReLU)
    return Setup(
        model,
        summed_digits,
        digit_batches(),
        torch.optim.SGD(model.parameters(), lr=0.1 / 64),
    )


def gan_losses(model: nn.Module, batch: Any) -> Tensor:
    """Both players' losses: the discriminator sees a detached fake, the generator looks through detached weights."""
    real, noise = batch
    generator, discriminator = layer(model, "generator"), layer(model, "discriminator")
    fake = generator(noise)
    d_real, d_fake = discriminator(real), discriminator(fake.detach())
    weights = {name: p.detach() for name, p in discriminator.named_parameters()}
    fooled = torch.func.functional_call(discriminator, weights, (fake,))
    return F.softplus(-d_real).mean() + F.softplus(d_fake).mean() + F.softplus(-fooled).mean()


@seeded
def gan() -> Setup:
    """Generator and discriminator with an optimizer each, detached from each other on purpose."""
    model = nn.ModuleDict({"generator": mlp(2, nn.ReLU, inputs=16, outputs=64)})
    model["discriminator"] = mlp(2, lambda: nn.LeakyReLU(0.2), outputs=1)
    scale_weights(model, HE)
    optimizers = [torch.optim.Adam(part.parameters(), lr=2e-4, betas=(0.5, 0.999)) for part in model.values()]
    return Setup(model, gan_losses, [(pixels, torch.randn(64, 16)) for pixels, _ in digit_batches()], optimizers)


CASES = (
    healthy("converged", converged, "Zhang et al. 2018 (TFbugs), on judging by the size of gradients"),
    healthy("converged_regression", converged_regression, "Bishop 2006, section 3.1"),
    healthy("frozen_backbone", frozen_backbone, "Yosinski et al. 2014"),
    healthy("unused_head", unused_head, "Caruana 1997"),
    healthy("unrouted_experts", unrouted_experts, "Shazeer et al. 2017"),
    healthy("mixture_of_experts", mixture_of_experts, "Fedus et al. 2022"),
    healthy("sparse_embedding", sparse_embedding, "pytorch documentation of Embedding, sparse"),
    healthy("tied_weights", tied_weights, "Press and Wolf 2017"),
    healthy("accumulation", accumulation, "Ott et al. 2018", accumulate=4, steps=2),
    healthy("tiny_units", tiny_units, "scale invariance: the unit of the loss is a convention"),
    healthy("huge_units", huge_units, "Kingma and Ba 2015, section 2.1"),
    healthy("summed_loss_small_rate", summed_loss_small_rate, "Goyal et al. 2017, section 3"),
    healthy("gan", gan, "Goodfellow et al. 2014; Radford et al. 2016"),
)
