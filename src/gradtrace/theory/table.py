"""Every activation function in one table: its steepest slope, its moments at q = 1, its gains, its critical point."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradtrace.theory.activations import critical_at, max_slope, moments, saturation
from gradtrace.theory.nonlinearities import TABLE, nonlinearity


@dataclass(frozen=True, slots=True)
class ActivationRow:
    """One activation function; moments are over z ~ N(0, 1)."""

    name: str
    max_slope: float
    at: float
    """Where |a'| is largest."""
    second: float
    """E[a^2]."""
    slope_second: float
    """E[a'^2]."""
    forward_gain: float
    """sqrt(fan_in Var(w)) that keeps the signal."""
    backward_gain: float
    """sqrt(fan_out Var(w)) that keeps the gradient."""
    sigma_w2: float
    """Critical at q = 1 with ..."""
    sigma_b2: float
    """... this bias variance; negative: no random bias keeps the signal as well."""
    saturated_below: float
    saturated_above: float


def activation_rows(names: tuple[str, ...] = ()) -> tuple[ActivationRow, ...]:
    """The table, or the named rows of it.

    >>> [round(row.backward_gain, 4) for row in activation_rows(("relu", "gelu", "tanh"))]
    [1.4142, 1.4811, 1.4674]

    Raises:
        ValueError: a name is not in the table.
    """
    return tuple(_row(name) for name in names or TABLE)


def _row(name: str) -> ActivationRow:
    activation = nonlinearity(name)
    steepest, at = max_slope(activation)
    now = moments(activation)
    point = critical_at(activation, 1.0) if now.slope_second > 0 else None
    return ActivationRow(
        name=name,
        max_slope=steepest,
        at=at,
        second=now.second,
        slope_second=now.slope_second,
        forward_gain=1 / math.sqrt(now.second) if now.second > 0 else math.inf,
        backward_gain=1 / math.sqrt(now.slope_second) if now.slope_second > 0 else math.inf,
        sigma_w2=point.sigma_w2 if point else math.nan,
        sigma_b2=round(point.sigma_b2, 12) + 0.0 if point else math.nan,
        saturated_below=saturation(activation)[0],
        saturated_above=saturation(activation)[1],
    )
