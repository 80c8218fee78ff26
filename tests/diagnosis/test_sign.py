"""A loss that is the negative of a known error is told; errors that are raised on purpose are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradtrace
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom

_G = torch.Generator().manual_seed(0)
X = torch.randn(64, 8, generator=_G)
LABELS = (X @ torch.randn(8, 4, generator=_G)).argmax(1)
TARGETS = X @ torch.randn(8, 4, generator=_G)
EARNED = -torch.rand(64, generator=_G)
Loss = Callable[[Tensor], Tensor]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))


def turned(found: Any) -> list[Finding]:
    return [f for f in found if (f.symptom, f.cause) == (Symptom.EXPLODING, Cause.LOSS_FUNCTION)]


def checked(loss: Loss, model: nn.Module | None = None, **options: Any) -> list[Finding]:
    model = network() if model is None else model
    return turned(gradtrace.check(model, lambda m, x: loss(m(x)), [X, X], **options).findings)


ILL: dict[str, Loss] = {
    "cross entropy": lambda o: -F.cross_entropy(o, LABELS),
    "squared error": lambda o: -F.mse_loss(o, TARGETS),
    "squared error times -1": lambda o: -1 * F.mse_loss(o, TARGETS),
    "absolute error, summed": lambda o: -F.l1_loss(o, TARGETS, reduction="sum") / 64,
    "of each example": lambda o: (-F.cross_entropy(o, LABELS, reduction="none")).mean(),
    "a likelihood without its minus": lambda o: torch.log_softmax(o, 1)[range(64), LABELS].mean(),
    "of gathered": lambda o: F.log_softmax(o, 1).gather(1, LABELS[:, None]).squeeze(1).mean(),
    "for accumulation": lambda o: -F.cross_entropy(o, LABELS) / 4,
}


@pytest.mark.parametrize("name", ILL)
def test_the_negative_of_an_error(name: str) -> None:
    (found,) = checked(ILL[name])
    assert found.severity is Severity.CRITICAL
    assert "is the negative of" in found.message
    assert found.where == ("2",)


WELL: dict[str, Loss] = {
    "cross entropy": lambda o: F.cross_entropy(o, LABELS),
    "turned twice": lambda o: F.mse_loss(o, TARGETS).neg().neg(),
    "times what was earned": lambda o: (F.cross_entropy(o, LABELS, reduction="none") * EARNED).mean(),
    "times one reward": lambda o: F.cross_entropy(o, LABELS) * -1.0,
    "beside another": lambda o: o.square().mean() - F.cross_entropy(o, LABELS),
    "an error less a constant": lambda o: F.mse_loss(o, TARGETS) - 100.0,
    "a written likelihood": lambda o: -torch.log_softmax(o, 1)[range(64), LABELS].mean(),
    "what was paid for each": lambda o: (-EARNED * torch.log_softmax(o, 1)[range(64), LABELS]).mean(),
    "log probabilities of all": lambda o: torch.log_softmax(o, 1).mean(),
    "a likelihood": lambda o: -torch.distributions.Normal(o, 1e-3).log_prob(o.detach()).mean(),
}


@pytest.mark.parametrize("name", WELL)
def test_what_is_no_negative_of_an_error_alone(name: str) -> None:
    assert checked(WELL[name]) == []


class Game(nn.Module):
    """An encoder, and who tells from its codes where they come from."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.adversary = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.adversary(self.encoder(x).relu())


def test_an_encoder_against_an_adversary_of_another_optimizer() -> None:
    model = Game()
    optimizer = torch.optim.Adam(model.encoder.parameters(), 1e-3)
    assert checked(lambda o: -F.cross_entropy(o, LABELS), model, optimizer=optimizer) == []
    both = torch.optim.Adam(model.parameters(), 1e-3)
    assert checked(lambda o: -F.cross_entropy(o, LABELS), model, optimizer=both)


def test_an_encoder_against_a_frozen_adversary() -> None:
    model = Game()
    model.adversary.requires_grad_(False)
    assert checked(lambda o: -F.cross_entropy(o, LABELS), model) == []


def test_what_was_learnt_may_be_forgotten_on_purpose() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(model(X), LABELS).backward()
        optimizer.step()
    assert checked(lambda o: -F.cross_entropy(o, LABELS), model) == []


@pytest.mark.parametrize("sign", [-1, 1])
def test_in_a_run(sign: int) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradtrace.watch(model, optimizer) as watch:
        for _ in range(60):
            optimizer.zero_grad()
            error = F.mse_loss(model(X), TARGETS)
            (-error if sign < 0 else error).backward()
            optimizer.step()
    findings = watch.diagnosis.findings
    assert bool(turned(findings)) == (sign < 0)
    if sign < 0:
        assert turned(findings)[0] is findings[0]
        assert {f.severity for f in findings[1:] if f.cause is Cause.LEARNING_RATE} <= {Severity.INFO}


def test_two_players_by_turns_in_a_run() -> None:
    """The encoder raises the adversary's error, each with an optimizer of its own."""
    model = Game()
    optimizers = [torch.optim.SGD(part.parameters(), 0.05) for part in (model.encoder, model.adversary)]
    with gradtrace.watch(model, optimizers, every=3, budget=10.0) as watch:
        for _ in range(30):
            for sign, optimizer in zip((-1, 1), optimizers, strict=True):
                model.zero_grad()
                error = F.cross_entropy(model(X), LABELS)
                (-error if sign < 0 else error).backward()
                optimizer.step()
    assert turned(watch.diagnosis.findings) == []
