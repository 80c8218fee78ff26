"""Steps that move nothing: gradients that are gone by then, a schedule that is over too soon, and healthy twins."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.records.finding import Diagnosis
from gradtrace.records.vocabulary import Cause, Severity, Symptom


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(64, 4)
    return x, (x[:, :1] * x[:, 1:2] > 0.0).float()


def trained(kind: Any, rate: float, *, cleared: str = "before", decay_every: int = 0, num: int = 160) -> Diagnosis:
    model = net()
    optimizer = kind(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, decay_every or num, 0.1)
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for _ in range(num):
            x, y = batch()
            if cleared == "before":
                optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(x), y).backward()
            if cleared == "behind":
                optimizer.zero_grad()
            optimizer.step()
            schedule.step()
    return watch.diagnosis


@pytest.mark.parametrize(("kind", "rate"), [(torch.optim.Adam, 0.02), (torch.optim.SGD, 0.5)])
def test_gradients_that_are_cleared_before_the_step_and_not_before_the_pass(kind: Any, rate: float) -> None:
    found = trained(kind, rate, cleared="behind").findings[0]
    assert (found.symptom, found.cause, found.severity) == (
        Symptom.DISCONNECTED,
        Cause.DETACHED_GRAPH,
        Severity.CRITICAL,
    )
    assert "cleared between backward() and step()" in found.message
    assert trained(kind, rate).healthy


def test_a_rate_that_cannot_move_anything_is_no_lost_gradient() -> None:
    found = trained(torch.optim.SGD, 1e-12).findings[0]
    assert (found.symptom, found.cause) == (Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT)
    assert "The steps are too small" in found.message


def test_a_schedule_of_epochs_that_is_stepped_at_every_batch() -> None:
    found = trained(torch.optim.Adam, 0.02, decay_every=4).findings[0]
    assert (found.symptom, found.cause) == (Symptom.UNDERFLOW, Cause.LEARNING_RATE)
    assert "stepped at every batch" in found.message
    assert "scheduler.step()" in found.remedies[0].code


@pytest.mark.parametrize("decay_every", [40, 120])
def test_one_that_lasts_as_long_as_the_training_is_healthy(decay_every: int) -> None:
    assert trained(torch.optim.Adam, 0.02, decay_every=decay_every).healthy
