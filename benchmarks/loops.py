"""The training loops that watching is timed on; they know nothing of who watches.

Every step has a fresh batch: one that is repeated is memorised, its gradients turn subnormal, and the bare loop itself
becomes slower. Each loop draws from a generator of its own, so that twins see the same batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Draw = Callable[[torch.Generator], Any]


@dataclass(slots=True)
class Loop:
    """Models, their optimizers, and a step that makes no sound."""

    models: dict[str, nn.Module]
    optimizers: list[torch.optim.Optimizer]
    body: Callable[[Any], Tensor]
    """Given a batch, a step; its loss."""
    draw: Draw
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    num_steps: int = 0

    def step(self) -> float:
        """One step; the loss as a number, as loops that print it do."""
        self.num_steps += 1
        return self.body(self.draw(self.generator)).item()

    @property
    def whole(self) -> nn.Module:
        """All models as one."""
        return next(iter(self.models.values())) if len(self.models) == 1 else nn.ModuleDict(self.models)


def plain(model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: Callable[..., Tensor], draw: Draw) -> Loop:
    """The step that everybody writes."""

    def body(batch: Any) -> Tensor:
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Loop({"": model}, [optimizer], body, draw)


def classify(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def continue_text(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def pictures(batch: int, *shape: int) -> Draw:
    def draw(generator: torch.Generator) -> Any:
        x = torch.randn(batch, *shape, generator=generator)
        return x, x.flatten(1)[:, :10].argmax(1)

    return draw


def text(batch: int, length: int) -> Draw:
    return lambda generator: torch.randint(0, 64, (batch, length + 1), generator=generator).cumsum(1) % 64


def dense(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        linear = nn.Linear(before, after)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def mlp() -> Loop:
    model = dense(*[512] * 11, 10)
    return plain(model, torch.optim.Adam(model.parameters(), lr=1e-4), classify, pictures(256, 512))


def tiny() -> Loop:
    model = dense(32, 64, 10)
    return plain(model, torch.optim.Adam(model.parameters(), lr=1e-3), classify, pictures(32, 32))


def small() -> Loop:
    model = dense(*[256] * 6, 10)
    return plain(model, torch.optim.Adam(model.parameters(), lr=1e-4), classify, pictures(128, 256))


def transformer() -> Loop:
    layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
    model = nn.Sequential(nn.Embedding(64, 128), encoder, nn.Linear(128, 64))
    return plain(model, torch.optim.AdamW(model.parameters(), lr=1e-4), continue_text, text(16, 64))


def half() -> Loop:
    loop = mlp()
    (model,), (optimizer,) = loop.models.values(), loop.optimizers

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return classify(model, batch)

    return plain(model, optimizer, loss_fn, loop.draw)


def cnn() -> Loop:
    layers: list[nn.Module] = []
    for before, after, stride in ((3, 32, 1), (32, 64, 2), (64, 128, 2), (128, 128, 1)):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    return plain(model, torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9), classify, pictures(64, 3, 32, 32))


class Tagger(nn.Module):
    """An LSTM and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(64, 128, batch_first=True), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        tags: Tensor = self.head(self.rnn(x)[0][:, -1])
        return tags


def lstm() -> Loop:
    model = Tagger()
    return plain(model, torch.optim.Adam(model.parameters(), lr=1e-3), classify, pictures(32, 48, 64))


def gan() -> Loop:
    generator, critic = dense(64, 256, 256, 256), dense(256, 256, 256, 1)
    of_generator, of_critic = (torch.optim.Adam(m.parameters(), lr=1e-4) for m in (generator, critic))

    def body(batch: tuple[Tensor, Tensor]) -> Tensor:
        real, noise = batch
        critic.zero_grad()
        F.softplus(-critic(real)).mean().backward()
        fake = generator(noise)
        F.softplus(critic(fake.detach())).mean().backward()
        of_critic.step()
        generator.zero_grad()
        loss = F.softplus(-critic(fake)).mean()
        loss.backward()
        of_generator.step()
        return loss.detach()

    def draw(drawn: torch.Generator) -> Any:
        return torch.randn(256, 256, generator=drawn), torch.randn(256, 64, generator=drawn)

    return Loop({"generator": generator, "critic": critic}, [of_generator, of_critic], body, draw)


def accumulated() -> Loop:
    loop = small()
    (model,), (optimizer,) = loop.models.values(), loop.optimizers

    def body(batch: tuple[Tensor, Tensor]) -> Tensor:
        optimizer.zero_grad()
        for part in zip(*(half.split(32) for half in batch), strict=True):
            loss = classify(model, part) / 4
            loss.backward()
        optimizer.step()
        return loss.detach()

    return Loop(loop.models, loop.optimizers, body, loop.draw)


LOOPS: dict[str, Callable[[], Loop]] = {
    "MLP 32-64-10, Adam": tiny,
    "MLP 6 x 256, batch 128, Adam": small,
    "the same, in 4 parts": accumulated,
    "GAN, width 256, Adam": gan,
    "LSTM 128, 48 steps, Adam": lstm,
    "MLP 10 x 512, batch 256, Adam": mlp,
    "the same under bf16 autocast": half,
    "CNN, 4 convolutions, SGD": cnn,
    "transformer, 6 layers, AdamW": transformer,
}


def make(name: str) -> Loop:
    """A new twin: the same weights and batches every time."""
    torch.manual_seed(0)
    return LOOPS[name]()
