"""How much of a squashing function's slope is left in the gradient, against what the loss's formula says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import gradtrace
from gradtrace.records.trace import PlateauStats


def of_logits(logits: Tensor, loss: Callable[[Tensor], Tensor]) -> list[PlateauStats]:
    """What the trace of loss(logits) says, the logits being parameters."""
    model = torch.nn.ParameterList([logits.clone()])
    trace = gradtrace.trace(model, lambda m, _: loss(m[0] * 1.0), None)
    assert not [note for note in trace.coverage.notes if "could not" in note]
    return [op.plateau for op in trace.ops if op.plateau is not None]


LOGITS = torch.linspace(-12.0, -6.0, 32)

PULLED_OFF: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "minimax": (lambda z: torch.log(1 - torch.sigmoid(z)).mean(), 1.0),
    "minimax by minus a cross entropy": (lambda z: -F.binary_cross_entropy(torch.sigmoid(z), torch.zeros_like(z)), 1.0),
    "minimax on logits": (lambda z: -F.binary_cross_entropy_with_logits(z, torch.zeros_like(z)), 1.0),
    "minimax by softplus": (lambda z: -F.softplus(z).mean(), 1.0),
    "minimax by log sigmoid": (lambda z: F.logsigmoid(-z).sum(), 1.0),
    "squared error": (lambda z: ((torch.sigmoid(z) - 1.0) ** 2).mean(), 1.0),
    "squared error of tanh": (lambda z: ((torch.tanh(z / 2) - 1.0) ** 2).mean(), 1.0),
    "likelihood": (lambda z: -torch.log(torch.sigmoid(z)).mean(), 0.0),
    "cross entropy": (lambda z: F.binary_cross_entropy(torch.sigmoid(z), torch.ones_like(z)), 0.0),
    "root of the likelihood": (lambda z: torch.sigmoid(z).pow(-0.5).mean(), -0.5),
}


@pytest.mark.parametrize("name", PULLED_OFF)
def test_what_is_left_of_the_slope(name: str) -> None:
    loss, left = PULLED_OFF[name]
    (stats,) = of_logits(LOGITS, loss)
    assert stats.left == pytest.approx(left, abs=0.01)
    assert (stats.off_frac, stats.off_of_flat) == (1.0, 1.0)
    slope = 1.0 - torch.tanh(LOGITS / 2) ** 2 if "tanh" in name else 4 * torch.sigmoid(LOGITS) * torch.sigmoid(-LOGITS)
    if any(word in name for word in ("logits", "softplus", "log sigmoid")):  # at its steepest 1, not 1/4
        slope = torch.sigmoid(LOGITS)
    assert stats.lost_decades == pytest.approx(float(-slope.double().log10().mean()), rel=0.02)


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: F.binary_cross_entropy_with_logits(z, torch.zeros_like(z)),
        lambda z: F.binary_cross_entropy(torch.sigmoid(z), torch.zeros_like(z)),
        lambda z: (torch.sigmoid(z) ** 2).mean(),
        lambda z: F.softplus(-z).mean(),
        lambda z: -F.logsigmoid(z).mean(),
        lambda z: torch.tanh(z).mean(),
    ],
)
def test_what_is_right_is_led_further_in(loss: Callable[[Tensor], Tensor]) -> None:
    """Or, of a loss that is steep where the output is wrong, it is not flat."""
    assert of_logits(LOGITS, loss) == []


def test_a_pull_that_is_noise_goes_both_ways() -> None:
    weights = torch.tensor([1.0, -1.0]).repeat(16)
    (stats,) = of_logits(LOGITS, lambda z: (weights * torch.sigmoid(z)).mean())
    assert stats.off_of_flat == pytest.approx(0.5)


def test_outputs_that_are_all_alike_tell_nothing() -> None:
    (stats,) = of_logits(torch.full((32,), -9.0), lambda z: torch.log(1 - torch.sigmoid(z)).mean())
    assert stats.left != stats.left


def test_what_is_rounded_away_is_made_up_for_by_nothing() -> None:
    (stats,) = of_logits(torch.linspace(-140.0, -120.0, 16), lambda z: -F.softplus(z).mean())
    assert stats.left == 1.0
    assert stats.lost_decades > 37.0


def test_hidden_units_have_none() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Sigmoid(), torch.nn.Linear(4, 1))
    with torch.no_grad():
        model[0].bias.fill_(-9.0)
    trace = gradtrace.trace(model, lambda m, x: m(x).mean(), torch.randn(16, 4))
    assert [op for op in trace.ops if op.plateau is not None] == []
