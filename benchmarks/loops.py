"""The training loops that watching is timed on; they know nothing of who watches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_BATCHES = 16
"""Ready in memory: what is timed is the step, not the loading of data."""


@dataclass(slots=True)
class Loop:
    """A model, its optimizer, and the step that everybody writes."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss_fn: Callable[[nn.Module, Any], Tensor]
    batches: list[Any]
    num_steps: int = field(default=0)

    def step(self) -> float:
        """One step; the loss as a number, as loops that print it do."""
        batch = self.batches[self.num_steps % len(self.batches)]
        self.num_steps += 1
        self.optimizer.zero_grad()
        loss = self.loss_fn(self.model, batch)
        loss.backward()
        self.optimizer.step()
        return loss.item()


def classify(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def continue_text(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def mlp(num_layers: int = 10, width: int = 512, batch: int = 256) -> Loop:
    layers: list[nn.Module] = []
    for _ in range(num_layers):
        linear = nn.Linear(width, width)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        layers += [linear, nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    return Loop(model, optimizer, classify, _pictures(batch, width))


def transformer(num_layers: int = 12, width: int = 128) -> Loop:
    layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
    model = nn.Sequential(nn.Embedding(256, width), encoder, nn.Linear(width, 256))
    batches = [torch.randint(0, 256, (8, 33)) for _ in range(NUM_BATCHES)]
    return Loop(model, torch.optim.AdamW(model.parameters(), lr=1e-4), continue_text, batches)


def cnn() -> Loop:
    layers: list[nn.Module] = []
    for before, after, stride in ((3, 32, 1), (32, 64, 2), (64, 128, 2), (128, 128, 1)):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    return Loop(model, torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9), classify, _pictures(32, 3, 32, 32))


def tiny() -> Loop:
    """A step of half a millisecond: for counting what grows over many of them."""
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    return Loop(model, torch.optim.Adam(model.parameters(), lr=1e-3), classify, _pictures(32, 16))


LOOPS: dict[str, Callable[[], Loop]] = {
    "10 x 512 ReLU MLP, batch 256, SGD": mlp,
    "12-layer transformer, AdamW": transformer,
    "small CNN, SGD": cnn,
}


def make(name: str) -> Loop:
    """A new twin: the same weights and batches every time."""
    torch.manual_seed(0)
    return LOOPS[name]()


def _pictures(batch: int, *shape: int) -> list[Any]:
    return [(torch.randn(batch, *shape), torch.randint(0, 10, (batch,))) for _ in range(NUM_BATCHES)]
