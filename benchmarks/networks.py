"""The networks that tracing is timed on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Job = tuple[nn.Module, Callable[[Any, Any], Tensor], Any]


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.outer(F.relu(self.inner(self.norm(x))))
        return y


class Convolutions(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norms[0](self.first(x)))
        return F.relu(x + self.norms[1](self.second(y)))


def classify(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    loss: Tensor = F.cross_entropy(model(batch[0]), batch[1])
    return loss


def residual(num_blocks: int, width: int, batch: int = 256) -> Job:
    blocks = [Block(width) for _ in range(num_blocks)]
    x, target = torch.randn(batch, width), torch.randint(0, 10, (batch,))
    return nn.Sequential(*blocks, nn.LayerNorm(width), nn.Linear(width, 10)), classify, (x, target)


def transformer(num_layers: int = 12, width: int = 256) -> Job:
    layer = nn.TransformerEncoderLayer(width, 8, 4 * width, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
    model = nn.Sequential(nn.Embedding(1000, width), encoder, nn.Linear(width, 1000))
    tokens = torch.randint(0, 1000, (8, 129))
    return model, lambda model, x: F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten()), tokens


def resnet() -> Job:
    stages: list[nn.Module] = []
    for before, after in ((3, 64), (64, 128), (128, 256)):
        stages += [nn.Conv2d(before, after, 3, stride=2, padding=1), *(Convolutions(after) for _ in range(3))]
    model = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))
    return model, classify, (torch.randn(16, 3, 64, 64), torch.randint(0, 10, (16,)))


class Sines(nn.Module):
    """Two cells, one time step after the other (pytorch/examples, time_sequence_prediction)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.LSTMCell(1, width), nn.LSTMCell(width, width), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, c, h2, c2 = (x.new_zeros(len(x), self.head.in_features) for _ in range(4))
        outputs = []
        for step in x.split(1, dim=1):
            h, c = self.first(step, (h, c))
            h2, c2 = self.second(h, (h2, c2))
            outputs.append(self.head(h2))
        return torch.cat(outputs, 1)


def sines(num_steps: int = 999, width: int = 51) -> Job:
    x = torch.randn(97, num_steps, dtype=torch.double)
    return Sines(width).double(), lambda model, x: (model(x[:, :-1]) - x[:, 1:]).pow(2).mean(), x


@dataclass(frozen=True, slots=True)
class Contest:
    """A network, and how many times a bare step's time a traced one may take."""

    make: Callable[[], Job]
    aim: float
    pairs: int = 9


CONTESTS = {
    "100 residual blocks of width 1024": Contest(lambda: residual(100, 1024), 1.2, 5),
    "100 residual blocks of width 256": Contest(lambda: residual(100, 256), 2.0),
    "1000 residual blocks of width 256": Contest(lambda: residual(1000, 256), 2.5, 5),
    "12-layer transformer of width 256": Contest(transformer, 1.5),
    "11000 residual blocks of width 8": Contest(lambda: residual(11_000, 8, 4), 2.5, 3),
    "998 steps of two LSTM cells": Contest(sines, 4.0, 3),
    "ResNet-like CNN": Contest(resnet, 1.3),
}
