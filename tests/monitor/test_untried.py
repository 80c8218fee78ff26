"""A run whose steps are as good as none, together, at a constant's loss; and what stays there for another reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Symptom


def told(watch: gradtrace.Watch) -> list[Finding]:
    return [f for f in watch.diagnosis.findings if "over before it has learnt anything" in f.message]


def classes() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(1024, 16)
    return x, (x[:, :4] @ torch.randn(4, 4)).argmax(1)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))


@pytest.mark.parametrize("unscaled", [False, True])
def test_clipping_with_the_loss_scale_still_on_the_gradients(unscaled: bool) -> None:
    """By plain torch the accuracy after 300 steps is 0.3 and 0.9."""
    x, y = classes()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu")
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for step in range(300):
            rows = slice(64 * (step % 16), 64 * (step % 16) + 64)
            optimizer.zero_grad()
            scaler.scale(nn.functional.cross_entropy(model(x[rows]), y[rows])).backward()
            if unscaled:
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            scaler.step(optimizer)
            scaler.update()
    found = told(watch)
    assert bool(found) is not unscaled
    for finding in found:
        assert (finding.symptom, finding.cause) == (Symptom.UNDERFLOW, Cause.LEARNING_RATE)
        assert "with the loss scale of 65536 still on them" in finding.message
        assert "scaler.unscale_(optimizer)" in finding.remedies[0].code


@pytest.mark.parametrize(("rate", "learnable", "ill"), [(2e-6, True, True), (1e-3, True, False), (1e-3, False, False)])
def test_a_rate_that_gets_nowhere_and_a_usual_one(rate: float, learnable: bool, ill: bool) -> None:
    """Labels that are not those of their inputs stay at a constant's as well: that is not the rate's."""
    x, y = classes()
    y = y if learnable else y[torch.randperm(len(y))]
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for _ in range(400):
            rows = torch.randint(0, len(x), (64,))
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert bool(told(watch)) is ill
    if ill:
        assert "The learning rate is too small (at most 2e-06)" in told(watch)[0].message
