"""How far compiled code is from the uncompiled, and when that is more than rounding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.monitor.traces.parting import parting


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))


def traced(dtype: torch.dtype = torch.float32) -> gradtrace.Trace:
    return gradtrace.trace(
        network().to(dtype), lambda model, x: model(x).square().mean(), torch.ones(2, 4, dtype=dtype)
    )


def scaled(trace: gradtrace.Trace, factors: dict[str, float]) -> gradtrace.Trace:
    """Other gradients of weights."""
    return replace(
        trace,
        parameters=tuple(
            replace(p, gradient=replace(p.gradient, norm=p.gradient.norm * factors.get(p.name, 1.0)))
            for p in trace.parameters
            if p.gradient is not None
        ),
    )


WEIGHTS = {"0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"}


def test_rounding_is_rounding() -> None:
    trace = traced()
    found = parting(scaled(trace, {"2.weight": 1.0 + 1e-6}), trace, WEIGHTS, is_random=False)
    assert found is not None
    assert found.distance == pytest.approx(1e-6, rel=1e-3)
    assert not found.is_beyond_rounding
    assert "within 1e-06" in str(found)
    assert 1e-6 < found.rounding < 1e-4  # a dozen ops, each a few units in the last place of float32


def test_the_first_weight_that_parts_is_told_as_the_gradient_meets_it() -> None:
    trace = traced()
    compiled = scaled(trace, {"0.weight": 1.5, "2.weight": 1.01, "4.weight": 1.0 + 1e-7})
    found = parting(compiled, trace, WEIGHTS, is_random=False)
    assert found is not None
    assert found.is_beyond_rounding
    assert found.first == "2.weight"
    assert found.distance == pytest.approx(0.5)
    assert "from 2.weight on" in str(found)


def test_where_random_numbers_are_drawn_the_two_are_not_compared() -> None:
    trace = traced()
    found = parting(scaled(trace, {"0.weight": 1.5}), trace, WEIGHTS, is_random=True)
    assert found is not None
    assert not found.is_beyond_rounding
    assert "may draw others" in str(found)


def test_where_rounding_alone_may_do_it_nothing_is_said() -> None:
    trace = traced(torch.bfloat16)
    found = parting(scaled(trace, {"0.weight": 1.5}), trace, WEIGHTS, is_random=False)
    assert found is not None
    assert not found.is_beyond_rounding


def test_weights_of_several_calls_are_left_out() -> None:
    trace = traced()
    assert parting(trace, trace, set(), is_random=False) is None
