"""What the best constant gets of Huber's error, beside a search for it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gradtrace.measure.objective import reach

KNEES = [(*error, knee) for error in (("huber_loss", "delta"), ("smooth_l1_loss", "beta")) for knee in (0.3, 2.0)]


def searched(name: str, t: torch.Tensor, **knee: float) -> float:
    """By trying many constants."""
    loss = getattr(F, name)
    tried = torch.linspace(float(t.min()), float(t.max()), 4001)
    return min(float(loss(c.expand_as(t), t, **knee)) for c in tried)


@pytest.mark.parametrize(("name", "word", "knee"), KNEES)
def test_the_best_constant_of_a_huber_error(name: str, word: str, knee: float) -> None:
    torch.manual_seed(0)
    t = torch.randn(65, 1).exp()
    found = reach(name, (torch.zeros(65, 1, requires_grad=True), t), {word: knee})
    assert found is not None
    torch.testing.assert_close(float(found[0]), searched(name, t, **{word: knee}), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize(("name", "word", "knee"), KNEES)
def test_a_row_against_a_column_leaves_what_the_constant_gets(name: str, word: str, knee: float) -> None:
    torch.manual_seed(0)
    t = torch.randn(65).exp()
    found = reach(name, (torch.zeros(65, 1, requires_grad=True), t), {word: knee})
    assert found is not None
    assert found[3] == 65.0
    torch.testing.assert_close(float(found[1]), searched(name, t, **{word: knee}), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize(("name", "word", "knee"), KNEES)
def test_targets_beyond_the_range_leave_the_error_itself(name: str, word: str, knee: float) -> None:
    output = torch.sigmoid(torch.zeros(2, 1, requires_grad=True))
    t = torch.tensor([[0.0], [4.0]])
    found = reach(name, (output, t), {word: knee})
    assert found is not None
    best = getattr(F, name)(t.clamp(0.0, 1.0), t, **{word: knee})
    torch.testing.assert_close(found[1], best)


def test_a_smooth_error_without_a_knee_is_an_absolute_one() -> None:
    t = torch.tensor([[0.0], [1.0], [5.0]])
    output = torch.zeros(3, 1, requires_grad=True)
    smooth, absolute = (reach("smooth_l1_loss", (output, t), {"beta": 0.0}), reach("l1_loss", (output, t), {}))
    assert smooth is not None
    assert absolute is not None
    torch.testing.assert_close(smooth, absolute)
