"""Small networks for the rules: an ill one and its healthy twin are built by the same function."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def mlp(
    depth: int, activation: type[nn.Module], width: int = 32, gain: float | None = None, seed: int = 0
) -> nn.Sequential:
    """Layers of Gaussian weights with standard deviation gain / sqrt(fan in), or torch's default."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    size = 16
    for _ in range(depth):
        linear = nn.Linear(size, width)
        if gain is not None:
            nn.init.normal_(linear.weight, std=gain / size**0.5, generator=generator)
            nn.init.zeros_(linear.bias)
        layers += [linear, activation()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, 4))


def batches(count: int = 2, size: int = 64, seed: int = 0) -> list[Any]:
    """Standard normal inputs of 16 features with labels of 4 classes."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 16, generator=generator), torch.randint(0, 4, (size,), generator=generator))
        for _ in range(count)
    ]


def cross_entropy(model: nn.Module, batch: Any) -> torch.Tensor:
    """Mean cross entropy."""
    return F.cross_entropy(model(batch[0]), batch[1])


class Residual(nn.Module):
    """x + scale f(x), He-initialised branches of one layer."""

    def __init__(self, depth: int, scale: float = 1.0, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Linear(16, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 4)
        self.scale = scale
        for block in self.blocks:
            nn.init.kaiming_normal_(block.weight, nonlinearity="relu")  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + self.scale * block(torch.relu(x))
        return self.head(x)
