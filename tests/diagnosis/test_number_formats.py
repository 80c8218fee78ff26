"""What formats lose, by closed forms, by a property of scaling, and against torch's own casts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import gradtrace
from gradtrace.diagnosis.number_formats import FormatLoss, format_loss, loss_scale, parameter_gradients
from gradtrace.diagnosis.thresholds import HALF_FORMATS
from gradtrace.records.trace import TensorStats

DTYPES = {name: getattr(torch, name) for name in HALF_FORMATS}


def stats_of(values: torch.Tensor) -> TensorStats:
    """As a trace measures them."""
    weight = nn.Parameter(torch.zeros(values.shape, dtype=values.dtype))

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = weight

    trace = gradtrace.trace(Linear(), lambda model, v: (model.weight * v).sum(), values)
    (parameter,) = trace.parameters
    assert parameter.gradient is not None
    return parameter.gradient


def of_bins(*bins: tuple[int, int], max_abs: float = 0.0) -> TensorStats:
    most = max_abs or 2.0 ** bins[-1][0]
    return TensorStats((sum(n for _, n in bins),), "float32", "cpu", most, most, 0.0, log2_counts=bins)


@pytest.mark.parametrize("name", HALF_FORMATS)
def test_the_edge_of_zero_is_the_edge_of_a_bin(name):
    smallest = HALF_FORMATS[name][0]
    assert format_loss([of_bins((smallest - 2, 3))], name).flushed_frac == 1.0
    assert format_loss([of_bins((smallest - 1, 3))], name).is_none


@pytest.mark.parametrize("name", HALF_FORMATS)
def test_the_edge_of_infinity_is_the_largest_number(name):
    largest = HALF_FORMATS[name][1]
    top = math.floor(math.log2(largest))
    assert format_loss([of_bins((top - 1, 1), (top, 1), max_abs=largest)], name).is_none
    assert format_loss([of_bins((top - 1, 1), (top, 1), max_abs=1.001 * largest)], name).overflow_frac == 0.5


def test_shares_count_entries_and_not_samples():
    """A histogram of 10 sampled entries out of 1000 weighs a hundred times one of 10 out of 10."""
    large = TensorStats((1000,), "float32", "cpu", 1.0, 1.0, 0.0, log2_counts=((-40, 10),))
    small = TensorStats((10,), "float32", "cpu", 1.0, 1.0, 0.0, log2_counts=((0, 10),))
    assert format_loss([large, small], "float16").flushed_frac == pytest.approx(1000 / 1010)


def test_zeros_and_infinities_are_nobodys_loss():
    half_zero = TensorStats((8,), "float32", "cpu", math.inf, math.inf, 0.5, 0.25, log2_counts=((-40, 1), (0, 1)))
    assert format_loss([half_zero], "float16") == FormatLoss(0.5, 0.0)
    assert loss_scale([half_zero], "float16").high_log2 == 14  # below 2^1 times 2^14


@pytest.mark.parametrize(
    ("name", "low", "high"), [("float16", 15, 20), ("bfloat16", -94, 132), ("float8_e5m2", 23, 20)]
)
def test_the_range_of_loss_scales(name, low, high):
    """Entries from 2^-40 to 2^-5: fp16 needs 2^15 to reach 2^-25, and has room up to 65504 / 2^-5 = 2^20.99."""
    scale = loss_scale([of_bins((-40, 1), (-5, 1))], name)
    assert (scale.low_log2, scale.high_log2, scale.keeps_all) == (low, high, low <= high)
    assert scale.lost.is_none == scale.keeps_all


def test_without_a_scale_for_all_the_largest_without_overflow_is_best():
    scale = loss_scale([of_bins((-60, 1), (-40, 2), (-5, 1))], "float16")
    assert not scale.keeps_all
    assert scale.lost == FormatLoss(0.25, 0.0)
    assert format_loss([of_bins((-60, 1), (-40, 2), (-5, 1))], "float16", scale.high_log2 + 1).overflow_frac > 0


def test_nothing_is_lost_of_nothing():
    assert loss_scale([], "float16") is None
    assert format_loss([TensorStats((3,), "float32", "cpu", 0.0, 0.0, 1.0)], "float16").is_none


bins = st.dictionaries(st.integers(-60, 30), st.integers(1, 9), min_size=1, max_size=12).map(
    lambda counts: tuple(sorted(counts.items()))
)


@given(bins, st.floats(1.0, 2.0, exclude_max=True), st.integers(-40, 40), st.sampled_from(sorted(HALF_FORMATS)))
def test_scaling_by_a_power_of_two_shifts_everything(counts, mantissa, k, name):
    gradient = of_bins(*counts, max_abs=mantissa * 2.0 ** counts[-1][0])
    moved = of_bins(*((e + k, n) for e, n in counts), max_abs=math.ldexp(gradient.max_abs, k))
    assert format_loss([moved], name) == format_loss([gradient], name, k)
    before, after = loss_scale([gradient], name), loss_scale([moved], name)
    assert (after.low_log2, after.high_log2) == (before.low_log2 - k, before.high_log2 - k)
    assert after.lost == before.lost


@given(bins, st.floats(1.0, 2.0, exclude_max=True), st.sampled_from(sorted(HALF_FORMATS)))
def test_the_range_is_exactly_the_scales_that_lose_nothing(counts, mantissa, name):
    gradient = of_bins(*counts, max_abs=mantissa * 2.0 ** counts[-1][0])
    scale = loss_scale([gradient], name)
    for k in range(min(scale.low_log2, scale.high_log2) - 2, max(scale.low_log2, scale.high_log2) + 3):
        lost = format_loss([gradient], name, k)
        assert (lost.flushed_frac == 0.0) == (k >= scale.low_log2)
        assert (lost.overflow_frac == 0.0) == (k <= scale.high_log2)


# ------------------------------------------------------------------------------------------------- against torch


def log_normal(middle: float, spread: float) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.exp2(middle + spread * torch.randn(800)) * torch.where(torch.rand(800) < 0.5, -1.0, 1.0)


@pytest.mark.parametrize("name", HALF_FORMATS)
@pytest.mark.parametrize(("middle", "spread"), [(-24, 3), (-9, 4), (0, 6), (14, 2), (8, 1), (-120, 9), (120, 3)])
def test_torchs_cast_loses_what_is_foretold(name, middle, spread):
    values = log_normal(middle, spread).clamp(-3e38, 3e38)
    cast = values.to(DTYPES[name]).float()
    lost = format_loss([stats_of(values)], name)
    nonzero = values[values != 0]
    assert float((cast[values != 0] == 0).double().mean()) == pytest.approx(lost.flushed_frac, abs=1e-12)
    over = float((nonzero.abs() > HALF_FORMATS[name][1]).double().mean())
    top = 2.0 ** math.floor(math.log2(HALF_FORMATS[name][1]))
    assert over <= lost.overflow_frac <= float((nonzero.abs() >= top).double().mean())
    if name != "float8_e4m3fn":  # which this torch casts to its largest number
        assert float(cast.isinf().double().mean()) <= over


@pytest.mark.parametrize("name", HALF_FORMATS)
@pytest.mark.parametrize("spread", [0.5, 1.5])
def test_the_loss_scale_saves_every_entry_in_torch(name, spread):
    values = log_normal(-60, spread)
    scale = loss_scale([stats_of(values)], name)
    assert scale.keeps_all
    for k in (scale.low_log2, scale.high_log2):
        cast = (values.double() * 2.0**k).to(DTYPES[name]).double()
        assert bool(((cast != 0) & cast.isfinite()).all())
        assert bool((cast.abs() <= HALF_FORMATS[name][1]).all())
    assert bool(((values.double() * 2.0 ** (scale.low_log2 - 1)).to(DTYPES[name]) == 0).any())
    assert float((values.double() * 2.0 ** (scale.high_log2 + 1)).abs().max()) > HALF_FORMATS[name][1]


def test_the_gradients_of_a_trace():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    model[0].weight.requires_grad_(False)
    trace = gradtrace.trace(model, lambda model, x: model(x).mean(), torch.ones(2, 4))
    names = [name for name, _ in parameter_gradients(trace)]
    assert "0.weight" not in names
    assert "2.weight" in names
