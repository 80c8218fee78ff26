"""The horizon: how many steps back until a gradient has fallen to 1e-3, and by half."""

from __future__ import annotations

import math
from dataclasses import dataclass

VANISHED_DECADES = -3.0
"""[decades] The horizon is where a gradient has fallen to 1e-3 ..."""
HALVED_DECADES = math.log10(0.5)
"""[decades] ... and the half-way, where it has fallen by half."""


@dataclass(frozen=True, slots=True)
class Horizon:
    """How many steps back a gradient reaches."""

    steps: float
    """Until it has fallen to 1e-3 for good; inf where it does not fall."""
    half_steps: float
    """Until it has fallen by half for good."""
    decades_per_step: float
    """Slope over the lags that were seen; negative: it shrinks."""
    extrapolated: bool
    """True where `steps` lies beyond the longest lag that was seen, at the rate of the second half of the lags."""


def horizon(curve: tuple[float, ...]) -> Horizon:
    """How far back, from log10 of the gradient by lag (0 at lag 0).

    >>> found = horizon(tuple(-0.25 * lag for lag in range(20)))
    >>> found.steps, round(found.half_steps, 3), found.extrapolated
    (12.0, 1.204, False)
    >>> horizon(tuple(-0.1 * lag for lag in range(11))).steps
    30.0
    """
    last = len(curve) - 1
    if last < 1 or any(math.isnan(x) for x in curve):
        return Horizon(math.nan, math.nan, math.nan, False)
    steps, beyond = _falls(curve, VANISHED_DECADES)
    return Horizon(steps, _falls(curve, HALVED_DECADES)[0], _rate(curve, 0), beyond)


def _falls(curve: tuple[float, ...], level: float) -> tuple[float, bool]:
    """The lag from which on the curve stays at or below `level`, between lags by interpolation."""
    last = len(curve) - 1
    above = max(lag for lag, value in enumerate(curve) if value > level)  # lag 0 is: its value is 0
    if above < last:
        high, low = curve[above], curve[above + 1]
        return above + (1.0 if math.isinf(low) else (level - high) / (low - high)), False
    rate = _rate(curve, last // 2)
    if not rate < 0:
        return math.inf, True
    return round(last + (level - curve[last]) / rate, 6), True


def _rate(curve: tuple[float, ...], start: int) -> float:
    """Decades per step by least squares, from lag `start` to the last that is not zero."""
    seen = [(lag, value) for lag, value in enumerate(curve) if lag >= start and math.isfinite(value)]
    if len(seen) < 2:
        return -math.inf
    middle = math.fsum(lag for lag, _ in seen) / len(seen)
    mean = math.fsum(value for _, value in seen) / len(seen)
    spread = math.fsum((lag - middle) ** 2 for lag, _ in seen)
    return math.fsum((lag - middle) * (value - mean) for lag, value in seen) / spread
