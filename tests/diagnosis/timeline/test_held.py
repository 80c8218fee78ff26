"""A decay that balances a loss near a constant's is a remark; one that a training learns with is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Severity


def told(optimizer_type: Any, **options: float) -> list[Finding]:
    torch.manual_seed(0)
    centres = torch.randn(8, 24)
    model = nn.Sequential(
        nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)
    )  # accuracy after 1,500 steps: 0.24 to 0.38 at a decay of 0.1, 0.78 at 1e-4
    optimizer = optimizer_type(model.parameters(), **options)
    with gradtrace.watch(model, optimizer, budget=10.0, every=100) as watch:
        for _ in range(400):
            labels = torch.randint(0, 8, (64,))
            loss = F.cross_entropy(model(0.5 * centres[labels] + torch.randn(64, 24)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return [f for f in watch.diagnosis.findings if f.cause is Cause.SMALL_WEIGHTS]


def test_a_decay_that_balances_the_loss() -> None:
    (found,) = told(torch.optim.Adam, lr=1e-3, weight_decay=0.1)
    assert found.severity is Severity.INFO
    assert "Weight decay of 0.1 pulls at each weight" in found.message
    assert found.evidence[1].value > 0.9


@pytest.mark.parametrize("decay", [0.0, 1e-4, 1e-2, 3e-2])
def test_one_that_a_training_learns_with(decay: float) -> None:
    assert not told(torch.optim.Adam, lr=1e-3, weight_decay=decay)


def test_a_decay_past_the_scaling_is_another_thing() -> None:
    assert not told(torch.optim.AdamW, lr=1e-3, weight_decay=0.1)
