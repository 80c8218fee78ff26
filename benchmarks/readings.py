"""From the times of many blocks to one ratio, and how sure it is.

The ratio of two totals over the same rounds; its interval by the bootstrap over rounds (Efron 1979: rounds drawn with
replacement, percentiles of the ratio). Wall-clock totals leave out the tenth of the rounds in which the kernel took the
core away most often per second: which these are does not depend on what a twin does. Totals of CPU time leave out none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from benchmarks.twins import Turns
from numpy.typing import NDArray

CALM_FRAC = 0.9
NUM_DRAWS = 4000

EARLY_S = 30.0
"""[seconds] Of bare steps: the beginning, which may cost more."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"


@dataclass(frozen=True, slots=True)
class Reading:
    """A watched twin against the bare one."""

    wall: Ratio
    early: Ratio
    """Of the rounds in the first `EARLY_S`."""
    second_half: Ratio
    """Of the rounds: what was lent to the beginning is behind."""
    cpu: Ratio
    typical: float
    """Median of the rounds' ratios: no rare event shows in it, and no disturbance."""


def read(watched: Turns, bare: Turns, calm: NDArray[np.bool_]) -> Reading:
    wall = np.array([watched.wall_s, bare.wall_s], float)
    cpu = np.array([watched.cpu_s, bare.cpu_s], float)
    both = ~np.isnan(wall).any(0)
    early = both & calm & (np.nancumsum(wall[1]) <= EARLY_S)
    late = both & calm & (np.arange(len(calm)) >= len(calm) // 2)
    return Reading(
        wall=ratio(*wall[:, both & calm]),
        early=ratio(*wall[:, early]),
        second_half=ratio(*wall[:, late]),
        cpu=ratio(*cpu[:, both]),
        typical=float(np.median(wall[0, both] / wall[1, both])),
    )


def ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> Ratio:
    """Of the totals.

    >>> ratio(np.array([2.0, 4.0]), np.array([1.0, 2.0]))
    Ratio(value=2.0, low=2.0, high=2.0)
    """
    if not len(above):
        return Ratio(math.nan, math.nan, math.nan)
    draws = np.random.default_rng(0).integers(0, len(above), (NUM_DRAWS, len(above)))
    drawn = above[draws].sum(1) / below[draws].sum(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Ratio(float(above.sum() / below.sum()), float(low), float(high))


def calm_rounds(turns: list[Turns]) -> NDArray[np.bool_]:
    """All rounds but the tenth with most interruptions a second."""
    wall = np.array([one.wall_s for one in turns], float)
    interruptions = np.array([one.interruptions for one in turns], float)
    rate = np.nansum(interruptions, 0) / np.nansum(wall, 0)
    calm: NDArray[np.bool_] = rate <= np.quantile(rate, CALM_FRAC)
    return calm
