"""Designs that a naive tool would flag: stops on purpose, adapters, masks, formats, reparametrisations."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from gradtrace.casebook.case import Setup, healthy, seeded
from gradtrace.casebook.networks import HE, Attention, Block, TokenModel, layer, mlp, scale_weights
from gradtrace.casebook.tasks import (
    Batch,
    cross_entropy,
    digit_batches,
    number_batches,
    token_batches,
    token_cross_entropy,
)


@seeded
def dropout() -> Setup:
    """Dropout of 0.5 after every layer: half of the gradient is zero, and the rest doubled."""
    model = nn.Sequential(
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )
    return Setup(model, cross_entropy, digit_batches(), torch.optim.Adam(model.parameters(), lr=1e-3))


class Bootstrap(nn.Module):
    """Online network with predictor, target network without gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.online, self.predictor = mlp(2, nn.ReLU, outputs=32), mlp(1, nn.ReLU, inputs=32, outputs=32)
        self.target = mlp(2, nn.ReLU, outputs=32).requires_grad_(False)


def bootstrap_loss(model: nn.Module, batch: Any) -> Tensor:
    """2 - 2 cos(prediction of one view, target of the other)."""
    one, other = batch
    predicted = layer(model, "predictor")(layer(model, "online")(one))
    wanted = layer(model, "target")(other).detach()
    return 2.0 - 2.0 * F.cosine_similarity(predicted, wanted, dim=1).mean()


@seeded
def byol() -> Setup:
    """A target network that never gets a gradient, by design."""
    batches = [(x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)) for x, _ in digit_batches()]
    return Setup(Bootstrap(), bootstrap_loss, batches)


class StraightThrough(nn.Module):
    """Rounds on the way forward and is the identity on the way back."""

    def forward(self, x: Tensor) -> Tensor:
        """[*] -> [*]."""
        return x + (torch.round(4.0 * x) / 4.0 - x).detach()


@seeded
def straight_through() -> Setup:
    """Rounded activations with a straight-through estimator: detach and round, and the gradient passes."""
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), StraightThrough(), nn.Linear(64, 10))
    return Setup(model, cross_entropy, digit_batches(), torch.optim.SGD(model.parameters(), lr=0.1))


def actor_critic_loss(model: nn.Module, batch: Any) -> Tensor:
    """Policy gradient with the advantage detached, and squared error of the value."""
    states, actions, returns = batch
    values = layer(model, "critic")(states).squeeze(1)
    chosen = F.log_softmax(layer(model, "actor")(states), dim=1).gather(1, actions).squeeze(1)
    gain: Tensor = chosen * (returns - values).detach()
    return F.mse_loss(values, returns) - gain.mean()


@seeded
def actor_critic() -> Setup:
    """The actor's loss must not train the critic: the advantage is detached, and each has its own gradient."""
    model = nn.ModuleDict(
        {"actor": mlp(2, nn.Tanh, inputs=16, outputs=4), "critic": mlp(2, nn.Tanh, inputs=16, outputs=1)}
    )
    batches = [(x, torch.randint(4, (64, 1)), y.squeeze(1)) for x, y in number_batches()]
    return Setup(model, actor_critic_loss, batches, torch.optim.Adam(model.parameters(), lr=3e-4))


class Adapted(nn.Module):
    """W x + B A x, W frozen, B zero at first."""

    def __init__(self, linear: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = linear.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, linear.in_features) / math.sqrt(linear.in_features))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """[*, inputs] -> [*, outputs]."""
        out: Tensor = self.base(x) + F.linear(F.linear(x, self.down), self.up)
        return out


@seeded
def lora() -> Setup:
    """Low-rank adapters on a frozen network: `up` starts at zero, so `down` gets exactly zero for one step."""
    model = nn.Sequential(
        Adapted(nn.Linear(64, 64)), nn.ReLU(), Adapted(nn.Linear(64, 64)), nn.ReLU(), nn.Linear(64, 10)
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return Setup(model, cross_entropy, digit_batches(), torch.optim.AdamW(trained, lr=1e-3))


def padded_cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """Positions labelled -100 do not count."""
    tokens, labels = batch
    return F.cross_entropy(model(tokens).flatten(0, 1), labels.flatten(), ignore_index=-100)


@seeded
def ignored_labels() -> Setup:
    """Padding: three quarters of the labels are -100, padding_idx has no gradient."""
    model = TokenModel([Block(32, Attention(32)) for _ in range(2)], 32)
    model.embedding = nn.Embedding(32, 32, padding_idx=0)
    batches = token_batches()
    for tokens, labels in batches:
        tokens[:, 4:], labels[:, 4:] = 0, -100
    return Setup(model, padded_cross_entropy, batches)


@seeded
def causal_mask() -> Setup:
    """A causal transformer: half of all scores are -inf and get a zero gradient."""
    model = TokenModel([Block(32, Attention(32, causal=True)) for _ in range(4)], 32)
    return Setup(model, token_cross_entropy, token_batches(), torch.optim.AdamW(model.parameters(), lr=1e-3))


def autocast_cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """Forward in bfloat16 where autocast says so."""
    pixels, labels = batch
    with torch.autocast("cpu", torch.bfloat16):
        return F.cross_entropy(model(pixels), labels)


@seeded
def autocast() -> Setup:
    """bfloat16 autocast over float32 weights, and Adam."""
    model = mlp(4, nn.ReLU)
    scale_weights(model, HE)
    return Setup(model, autocast_cross_entropy, digit_batches(), torch.optim.Adam(model.parameters(), lr=1e-3))


@seeded
def weight_norm() -> Setup:
    """Weights as g v / |v|: the parameters' gradients are not those of the weights."""
    layers = [parametrizations.weight_norm(nn.Linear(64, 64)) for _ in range(3)]
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2], nn.ReLU(), nn.Linear(64, 10))
    return Setup(model, cross_entropy, digit_batches())


@seeded
def spectral_norm() -> Setup:
    """A discriminator with spectral norm: no layer can amplify, and three of them lose little."""
    layers = [parametrizations.spectral_norm(nn.Linear(64, 64)) for _ in range(3)]
    act = nn.LeakyReLU(0.2)
    return Setup(
        nn.Sequential(layers[0], act, layers[1], act, layers[2], act, nn.Linear(64, 10)), cross_entropy, digit_batches()
    )


def level_net() -> nn.Module:
    """A row of sixteen for each level, and a layer on the rows of all twelve readings."""
    return nn.Sequential(nn.Embedding(16, 8), nn.Flatten(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 4))


def level_batches(size: int = 64, *, cut_first: bool = False) -> list[Batch]:
    """Twelve readings in [0, 1) as levels from 0 to 15, and the class of their pattern."""
    weights = torch.randn(12, 4)
    readings = [torch.rand(size, 12) for _ in range(2)]
    levels = [x.long() * 15 if cut_first else (x * 15).long() for x in readings]
    return [(each, ((x - 0.5) @ weights).argmax(1)) for each, x in zip(levels, readings, strict=True)]


@seeded
def levels() -> Setup:
    """Readings as levels that are looked up: integers, which no gradient goes back to."""
    return Setup(level_net(), cross_entropy, level_batches())


CASES = (
    healthy("dropout", dropout, "Srivastava et al. 2014"),
    healthy("byol", byol, "Grill et al. 2020"),
    healthy("straight_through", straight_through, "Bengio, Leonard and Courville 2013"),
    healthy("actor_critic", actor_critic, "Mnih et al. 2016"),
    healthy("lora", lora, "Hu et al. 2022"),
    healthy("ignored_labels", ignored_labels, "Devlin et al. 2019; pytorch documentation of ignore_index"),
    healthy("causal_mask", causal_mask, "Vaswani et al. 2017; Radford et al. 2018"),
    healthy("autocast", autocast, "Micikevicius et al. 2018; Kalamkar et al. 2019"),
    healthy("weight_norm", weight_norm, "Salimans and Kingma 2016"),
    healthy("levels", levels, "Gorishniy et al. 2022, section 3.2"),
    healthy("spectral_norm", spectral_norm, "Miyato et al. 2018"),
)
