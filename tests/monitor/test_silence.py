"""A network whose gradient falls silent as a whole, late: looked at again, and told where it is flat."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.records.vocabulary import Cause, Severity, Symptom


@pytest.mark.parametrize("bounded", [True, False])
def test_an_output_that_dies_behind_a_relu(bounded: bool) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1)]
    model = nn.Sequential(*layers, *([nn.ReLU()] if bounded else []))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    x = torch.randn(64, 6)
    y = (x[:, :1] > 2.0).float()  # rare: the logits are pushed below zero at once
    with gradtrace.watch(model, optimizer, budget=10.0, every=1000) as watch:
        for _ in range(120):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(x), y).backward()
            optimizer.step()
    of_loss = Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION
    flat = [f for f in watch.diagnosis.findings if (f.symptom, f.cause) == of_loss]
    assert [f.severity for f in flat] == ([Severity.CRITICAL] if bounded else [])
    assert watch.diagnosis.healthy is not bounded


def test_a_margin_that_all_have_reached_is_healthy() -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x = torch.randn(64, 2)
    side = x[:, :1].sign()
    x = x + side * torch.tensor([1.0, 0.0])
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for _ in range(200):
            optimizer.zero_grad()
            torch.relu(0.5 - side * model(x)).mean().backward()
            optimizer.step()
    assert watch.diagnosis.healthy
