"""Training loops of many kinds, each of which must go the same with and without a watch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Parts = tuple[dict[str, nn.Module], list[torch.optim.Optimizer], Callable[[int], Any]]


def _data(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(*shape), torch.randint(0, 4, (shape[0],))


def plain(model: nn.Module, *shape: int, make: Any = torch.optim.Adam, **options: Any) -> Parts:
    optimizer = make(model.parameters(), lr=1e-2, **options)

    def step(number: int) -> float:
        x, y = _data(*shape)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return {"": model}, [optimizer], step


def mlp() -> Parts:
    return plain(nn.Sequential(nn.Linear(8, 32), nn.ReLU(inplace=True), nn.Linear(32, 4)), 16, 8)


def convolutions() -> Parts:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Flatten(), nn.Linear(288, 4)
    )
    return plain(model, 8, 3, 8, 8, make=torch.optim.SGD, momentum=0.9)


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(6, 12, batch_first=True), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def lstm() -> Parts:
    return plain(Tagger(), 8, 10, 6)


def transformer() -> Parts:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.1)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(96, 4))
    return plain(model, 8, 6, 16)


def scaled() -> Parts:
    """Mixed precision with a scaler, clipped, whose first steps overflow."""
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)

    def step(number: int) -> float:
        x, y = _data(16, 8)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = 4 * F.cross_entropy(model(x).float(), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return {"": model}, [optimizer], step


def accumulated() -> Parts:
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def step(number: int) -> float:
        total = 0.0
        for _ in range(3):
            x, y = _data(8, 8)
            loss = F.cross_entropy(model(x), y) / 3
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        return total

    return {"": model}, [optimizer], step


def gan() -> Parts:
    generator, judge = nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(), nn.Linear(16, 1))
    optimizers: list[torch.optim.Optimizer] = []
    for model in (generator, judge):
        optimizers.append(torch.optim.Adam(model.parameters(), lr=1e-3))

    def step(number: int) -> float:
        fake = generator(torch.randn(16, 4))
        optimizers[1].zero_grad()
        loss = F.softplus(-judge(torch.randn(16, 8))).mean() + F.softplus(judge(fake.detach())).mean()
        loss.backward()
        optimizers[1].step()
        optimizers[0].zero_grad()
        loss = F.softplus(-judge(fake)).mean()
        loss.backward()
        optimizers[0].step()
        return loss.item()

    return {"generator": generator, "judge": judge}, optimizers, step


def closures() -> Parts:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)

    def step(number: int) -> float:
        x, y = _data(32, 8)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        return float(optimizer.step(closure).detach())

    return {"": model}, [optimizer], step


def validated() -> Parts:
    """Validation without gradients between the steps, and weights frozen half way."""
    models, optimizers, step = mlp()
    (model,) = models.values()

    def both(number: int) -> float:
        loss = step(number)
        if number == 100:
            next(model.parameters()).requires_grad_(False)
        if number % 10 == 0:
            with torch.no_grad():
                model.eval()
                model(torch.randn(4, 8))
                model.train()
        return loss

    return models, optimizers, both


def penalised() -> Parts:
    """A gradient penalty: a backward pass through a backward pass."""
    model = nn.Sequential(nn.Linear(8, 16), nn.Softplus(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(number: int) -> float:
        x = torch.randn(16, 8, requires_grad=True)
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        optimizer.zero_grad()
        loss = (slope.norm(2, 1) - 1).square().mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return {"": model}, [optimizer], step


LOOPS: dict[str, Callable[[], Parts]] = {
    made.__name__: made
    for made in (
        mlp, convolutions, lstm, transformer, scaled, accumulated, gan, closures, validated, penalised,
    )
}  # fmt: skip
