"""How do a thousand parameters by a million steps become a picture? Pooled by the largest and by the smallest.

A spike of a single step survives any number of poolings by the largest, a dip any by the smallest. Levels are one byte
each, evenly spaced in log10; three bytes are kept for what has no logarithm.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LEVELS = 250
ZERO, INFINITE, MISSING = 253, 254, 255


@dataclass(frozen=True, slots=True)
class Quantised:
    """Bytes of a matrix, and the decades of the first and the last level."""

    low: float
    high: float
    data: str
    """base64, row by row."""


def edges(count: int, most: int) -> NDArray[np.int64]:
    """Boundaries of at most `most` groups of nearly equal size.

    >>> edges(5, 2)
    array([0, 2, 5])
    """
    return np.linspace(0, count, min(count, most) + 1).astype(np.int64)


def pooled(values: NDArray[Any], rows: NDArray[np.int64], columns: NDArray[np.int64], *, largest: bool) -> NDArray[Any]:
    """The largest (or smallest) of each group of rows and columns; NaN counts only where there is nothing else.

    >>> pooled(np.array([[1.0, np.nan, 3.0, 4.0]]), np.array([0, 1]), np.array([0, 2, 4]), largest=False)
    array([[1., 3.]])
    """
    pool = np.fmax if largest else np.fmin
    return np.asarray(pool.reduceat(pool.reduceat(values, rows[:-1], axis=0), columns[:-1], axis=1))


def quantised(values: NDArray[Any], low: float, high: float) -> Quantised:
    """log10 of `values`, to the nearest of `LEVELS` levels from `low` to `high`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(np.asarray(values, dtype=np.float64))
    scaled = (logs - low) / max(high - low, 1e-12) * (LEVELS - 1)
    codes = np.where(np.isfinite(logs), np.clip(np.nan_to_num(scaled), 0, LEVELS - 1).round(), MISSING)
    codes = np.where(logs == -np.inf, ZERO, np.where(logs == np.inf, INFINITE, codes))
    return Quantised(low, high, base64.b64encode(codes.astype(np.uint8).tobytes()).decode())


def run_map(
    label: str,
    names: Sequence[str],
    first: NDArray[np.integer],
    last: NDArray[np.integer],
    largest: NDArray[Any],
    smallest: NDArray[Any],
    events: Sequence[int] = (),
) -> dict[str, Any]:
    """What the script draws as a map: [name, column] of a run, whose columns are steps from `first` to `last`."""
    ends = span(largest, smallest)
    return {
        "label": label,
        "names": list(names),
        "first": first.tolist(),
        "last": last.tolist(),
        "low": ends[0],
        "high": ends[1],
        "events": list(events),
        "largest": quantised(largest, *ends).data,
        "smallest": quantised(smallest, *ends).data,
    }


def span(*matrices: NDArray[Any]) -> tuple[float, float]:
    """Decades of the smallest and the largest positive finite number; (-1, 0) where there is none.

    >>> span(np.array([0.0, 1e-3, 10.0, np.inf]))
    (-3.0, 1.0)
    """
    found = [m[(m > 0) & np.isfinite(m)] for m in matrices]
    found = [m for m in found if m.size]
    if not found:
        return -1.0, 0.0
    low, high = min(float(m.min()) for m in found), max(float(m.max()) for m in found)
    return float(np.log10(low)), float(np.log10(high))
