"""What one batch did to a training is told as its data's, and what the rate did as the rate's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradtrace
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Severity

Spoil = Callable[[Tensor, Tensor], None]
SAID = "it is that batch"


def an_input(x: Tensor, y: Tensor) -> None:
    x[237, 3] = 2.1e5


def a_target(x: Tensor, y: Tensor) -> None:
    y[237] = 1e6


def nothing(x: Tensor, y: Tensor) -> None:
    pass


def loud(spoil: Spoil, rate: float, model: nn.Module | None = None) -> list[Finding]:
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
    x = torch.randn(400, 6)
    y = (2 * x[:, 0] + x[:, 1] * x[:, 2]).unsqueeze(1)
    spoil(x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    with gradtrace.watch(model, optimizer, budget=100.0) as watch:
        for _ in range(12):
            for rows in torch.arange(400).split(40):
                optimizer.zero_grad()
                F.mse_loss(model(x[rows]), y[rows]).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1e3)
                optimizer.step()
    return [f for f in watch.diagnosis.findings if f.severity is not Severity.INFO]


@pytest.mark.parametrize("spoil", [an_input, a_target])
def test_one_row_that_lies_far_from_all_others(spoil: Spoil) -> None:
    found = loud(spoil, 0.02)
    assert found[0].cause is Cause.INPUT_SCALE
    assert found[0].where[0] == "batch"
    assert "At step 5 the loss jumped to" in found[0].message
    assert SAID in found[0].message
    assert not [f for f in found if f.cause is Cause.LEARNING_RATE]


def test_the_same_without_it_has_nothing() -> None:
    assert not loud(nothing, 0.02)


@pytest.mark.parametrize("rate", [1.0, 10.0])
def test_steps_that_are_too_large_are_the_rates(rate: float) -> None:
    found = loud(nothing, rate)
    assert found[0].cause is Cause.LEARNING_RATE
    assert not [f for f in found if SAID in f.message]


def test_a_head_of_zeros_may_grow_at_once() -> None:
    head = nn.Linear(32, 1)
    nn.init.zeros_(head.weight)
    assert not [f for f in loud(an_input, 0.02, nn.Sequential(nn.Linear(6, 32), nn.ReLU(), head)) if SAID in f.message]


class Exponential(nn.Module):
    """Whose output may grow by any factor in a step."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(max=12.0).exp()


def test_functions_that_grow_faster_are_not_judged() -> None:
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1), Exponential())
    assert not [f for f in loud(an_input, 0.02, model) if SAID in f.message]


def test_the_bound_holds_on_the_same_batch() -> None:
    """prod (1 + r sqrt(n))^2, for steps along the gradient that move each weight by a hundredth to a tenth."""
    worst = 0.0
    for seed in range(20):
        torch.manual_seed(seed)
        layers = [nn.Linear(n, m, bias=False) for n, m in ((6, 64), (64, 32), (32, 1))]
        model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        x, y = torch.randn(40, 6) * 10 ** (seed % 3), torch.randn(40, 1)
        before = F.mse_loss(model(x), y)
        before.backward()
        r = (0.01, 0.03, 0.1)[seed % 3]
        with torch.no_grad():
            for layer in layers:
                gradient = layer.weight.grad
                assert gradient is not None
                layer.weight -= r * layer.weight.norm() * gradient / gradient.norm()
        bound = np.prod([(1 + r * max(layer.weight.shape) ** 0.5) ** 2 for layer in layers])
        worst = max(worst, F.mse_loss(model(x), y).item() / before.item() / float(bound))
    assert worst < 1.0
