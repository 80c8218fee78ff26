"""What do the networks of the casebook learn? Digits, a few numbers, or short sequences; and the usual losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gradtrace.data import digits

if TYPE_CHECKING:
    from torch import nn

Batch = tuple[Tensor, Tensor]


def digit_batches(size: int = 64, count: int = 2, scale: float = 1.0) -> list[Batch]:
    """Standardised pixels (mean 0, variance 1 over all of them) times `scale` [size, 64], labels [size]."""
    pixels, labels = (torch.from_numpy(array) for array in digits())
    pixels = (pixels - pixels.mean()) / pixels.std() * scale
    chosen = torch.randperm(len(labels))[: size * count]
    return list(zip(pixels[chosen].split(size), labels[chosen].split(size), strict=True))


def image_batches(size: int = 32, count: int = 2, scale: float = 1.0) -> list[Batch]:
    """The same as images [size, 1, 8, 8]."""
    return [(pixels.view(-1, 1, 8, 8), labels) for pixels, labels in digit_batches(size, count, scale)]


def raw_digit_batches(size: int = 64, count: int = 2, largest: float = 255.0) -> list[Batch]:
    """Pixels from 0 to `largest`, as they come out of an image file, and labels."""
    pixels, labels = (torch.from_numpy(array) for array in digits())
    chosen = torch.randperm(len(labels))[: size * count]
    return list(zip((pixels * largest)[chosen].split(size), labels[chosen].split(size), strict=True))


def number_batches(size: int = 64, count: int = 2, features: int = 16, targets: float = 1.0) -> list[Batch]:
    """Standard normal features, and a smooth function of them with values of the order of `targets`, [size, 1]."""
    slope = torch.randn(features, 1) / features**0.5
    inputs = [torch.randn(size, features) for _ in range(count)]
    return [(x, targets * (torch.sin(2.0 * x @ slope) + 0.3 * (x @ slope))) for x in inputs]


def token_batches(size: int = 16, length: int = 16, vocabulary: int = 32, count: int = 2) -> list[Batch]:
    """Tokens and, as labels, the tokens that follow: a random walk on a ring; both [size, length]."""
    batches = []
    for _ in range(count):
        walk = (torch.randint(vocabulary, (size, 1)) + torch.randint(1, 4, (size, length + 1)).cumsum(1)) % vocabulary
        batches.append((walk[:, :-1].contiguous(), walk[:, 1:].contiguous()))
    return batches


def series_batches(length: int, size: int = 16, features: int = 8, classes: int = 4, count: int = 2) -> list[Batch]:
    """Standard normal series [size, length, features]; the label [size] hangs on the first step alone."""
    batches = []
    for _ in range(count):
        series = torch.randn(size, length, features)
        batches.append((series, series[:, 0, :classes].argmax(1)))
    return batches


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """Mean over the batch."""
    inputs, labels = batch
    return F.cross_entropy(model(inputs), labels)


def token_cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """Mean over batch and positions."""
    tokens, labels = batch
    return F.cross_entropy(model(tokens).flatten(0, 1), labels.flatten())


def squared_error(model: nn.Module, batch: Any) -> Tensor:
    """Mean over batch and outputs."""
    inputs, targets = batch
    return F.mse_loss(model(inputs), targets)


def train(model: nn.Module, batches: list[Any], loss_fn: Any, num_steps: int, lr: float = 1e-3) -> None:
    """A moment of Adam, in place."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(num_steps):
        optimizer.zero_grad()
        loss_fn(model, batches[step % len(batches)]).backward()
        optimizer.step()
    optimizer.zero_grad()
