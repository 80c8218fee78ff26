"""What was seen of a call in the forward pass, as handles, and the records of it once their numbers are on the host."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gradtrace.measure.statistics import quantiles
from gradtrace.records.trace import ActivationStats, ForwardStats, ObjectiveStats
from gradtrace.records.vocabulary import Factor

if TYPE_CHECKING:
    from gradtrace.tape.activations import Activation

SATURATED_FRAC = 0.05
"""An activation is saturated where |a'| is under 5 % of its maximum (the vocabulary's definition)."""

MOMENTS = ("sum", "norm", "flat", "nonzero", "units")
"""What is measured of |a'|: its sum and norm, how often it is flat and how often not zero, its maximum per unit."""


@dataclass(slots=True)
class Seen:
    """Handles of what was measured at one call."""

    activation: tuple[Activation, dict[str, int], int, int] | None = None
    scales: dict[str, int] = field(default_factory=dict)
    numels: tuple[int, int] = (0, 0)
    spread: int | None = None
    """Of a layer's input, from example to example."""
    alike: tuple[int, int] | None = None
    """Of a layer that is given data: whether all rows are one, and how many there are."""
    divisor: int | None = None
    """Of a division by a tensor: its smallest and largest divisor."""
    operands: list[int] = field(default_factory=list)
    results: list[int] = field(default_factory=list)
    objective: int | None = None
    """Of a known loss function: what its value is held against (`objective.reach`), ..."""
    value: int | None = None
    """... the value itself, and of how many elements it is the sum (1: their mean)."""
    num_summed: int = 1
    written_out: str = ""
    """The loss function that is written out here, where it is."""
    arguments: tuple[Any, Any] | None = None
    """Of a call that may be part of that, until it returns."""
    heads: int | None = None
    """Of a softmax over the last axis: what `attention.heads` says."""


def activation_stats(seen: Seen, arrays: list[np.ndarray]) -> ActivationStats | None:
    """The record of an activation, once its numbers are on the host."""
    if seen.activation is None:
        return None
    activation, handles, numel, num_units = seen.activation
    if not numel:
        return None
    total, square, num_flat, num_nonzero, units = _sums(activation, handles, numel, num_units, arrays)
    x = arrays[handles["x"]].astype(np.float64) if "x" in handles else np.empty(0)
    finite = np.isfinite(x)
    x = np.sort(x if finite.all() else x[finite])
    mean = float(np.add.reduce(x)) / x.size if x.size else math.nan
    away = x - mean
    return ActivationStats(
        function=activation.name,
        derivative_max=activation.derivative_max,
        derivative_mean=total / numel,
        derivative_rms=math.sqrt(square / numel),
        saturated_frac=num_flat / numel,
        zero_frac=1.0 - num_nonzero / numel,
        num_units=num_units,
        dead_units=tuple(np.flatnonzero(units == 0.0).tolist()),
        saturated_units=int(np.sum(units < activation.flat_below(SATURATED_FRAC))),
        num_samples=numel // max(num_units, 1),
        preactivation_mean=mean,
        preactivation_std=math.sqrt(float(np.dot(away, away)) / x.size) if x.size else math.nan,
        preactivation_quantiles=tuple(quantiles(x[None], _QUANTILES)[0]) if x.size else (),
    )


_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def _sums(
    activation: Activation, handles: dict[str, int], numel: int, num_units: int, arrays: list[np.ndarray]
) -> tuple[float, float, float, float, np.ndarray]:
    """Sum of |a'| and of a'^2, how many are flat and not zero, and the largest per unit."""
    if "low" in handles:
        assert activation.levels is not None
        lows = arrays[handles["low"]].astype(np.float64)
        num_low, per_unit = float(lows.sum()), numel / max(num_units, 1)
        counts = (num_low, numel - num_low)
        sizes = [abs(level) for level in activation.levels]
        flat = [size < activation.flat_below(SATURATED_FRAC) for size in sizes]
        return (
            sum(n * size for n, size in zip(counts, sizes, strict=True)),
            sum(n * size**2 for n, size in zip(counts, sizes, strict=True)),
            sum(n for n, is_flat in zip(counts, flat, strict=True) if is_flat),
            sum(n for n, size in zip(counts, sizes, strict=True) if size > 0.0),
            np.where(lows == 0, sizes[1], np.where(lows == per_unit, sizes[0], max(sizes))),
        )
    total, norm, num_flat, num_nonzero = (float(arrays[handles[name]][0]) for name in MOMENTS[:4])
    return total, norm**2, num_flat, num_nonzero, arrays[handles["units"]] if "units" in handles else np.empty(0)


_SQUARED = (2.0**-50, 2.0**60)
"""Between these float32 has squares of all digits, of what is a thousandth of them too."""


def forward_stats(seen: Seen, arrays: list[np.ndarray]) -> ForwardStats | None:
    """The record of an op's scales, once its numbers are on the host."""
    if "output" not in seen.scales:
        return None
    scales, (num_in, num_out) = seen.scales, seen.numels
    input_rms = float(arrays[scales["input"]][0]) / math.sqrt(num_in)
    differing = math.nan
    if seen.spread is not None and _SQUARED[0] < input_rms < _SQUARED[1]:
        differing = math.sqrt(float(arrays[seen.spread][0])) / input_rms
    return ForwardStats(
        input_rms=input_rms,
        output_rms=float(arrays[scales["output"]][0]) / math.sqrt(num_out),
        differing=differing,
        num_alike=seen.alike[1] if seen.alike is not None and arrays[seen.alike[0]][0] else 0,
    )


def objective_stats(seen: Seen, arrays: list[np.ndarray], factor: Factor, function: str) -> ObjectiveStats | None:
    """The record of a known loss function, called or written out, once its numbers are on the host."""
    if seen.objective is None or seen.value is None:
        return None
    constant, floor, beyond, held = (float(number) for number in arrays[seen.objective])
    if seen.written_out and (factor is not Factor.LOSS or not constant > 0.0):
        return None  # a sum of squares within the network, or what only looked like a loss
    value = float(arrays[seen.value][0]) / seen.num_summed
    return ObjectiveStats(value, constant, floor, beyond, held, seen.written_out or function)
