"""One row of a run: a step, or a few old ones pooled into their smallest and largest values.

Pooling is associative: min and max of mins and maxes, so that a spike of one step survives any number of poolings.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.records.run import RunSteps, Scalar, Series

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_HEAD = struct.Struct("<III")  # number of parameters, whether low and high differ, steps whose loss was NaN


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """Steps `first` to `first + count - 1`; arrays as in `RunSteps`, without the axis of rows."""

    first: int
    count: int
    time_s: float
    nonfinite: int
    scalars_low: NDArray[np.float64]
    scalars_high: NDArray[np.float64]
    series_low: NDArray[np.float32]
    series_high: NDArray[np.float32]
    nan_losses: int = 0

    def pack(self) -> bytes:
        """The arrays as bytes, little-endian; a single step has its values once."""
        num_parameters = self.series_low.shape[1]
        pooled = self.count > 1
        parts = [self.scalars_low, self.scalars_high] if pooled else [self.scalars_low]
        tables = [self.series_low, self.series_high] if pooled else [self.series_low]
        head = _HEAD.pack(num_parameters, pooled, self.nan_losses)
        return (
            head
            + b"".join(a.astype("<f8").tobytes() for a in parts)
            + b"".join(a.astype("<f4").tobytes() for a in tables)
        )


def unpack(first: int, count: int, time_s: float, nonfinite: int, packed: bytes) -> Row:
    """The row that `Row.pack` packed.

    Raises:
        ValueError: the bytes are not as long as they say.
    """
    num_parameters, pooled, nan_losses = _HEAD.unpack_from(packed)
    copies, width, depth = 1 + bool(pooled), len(Scalar), len(Series)
    if len(packed) != _HEAD.size + copies * (8 * width + 4 * depth * num_parameters):
        raise ValueError(f"the row of step {first} is not as long as it says")
    scalars = np.frombuffer(packed, "<f8", copies * width, _HEAD.size).reshape(copies, width)
    start = _HEAD.size + scalars.nbytes
    series = np.frombuffer(packed, "<f4", copies * depth * num_parameters, start).reshape(copies, depth, num_parameters)
    return Row(first, count, time_s, nonfinite, scalars[0], scalars[-1], series[0], series[-1], nan_losses)


def pool(earlier: Row, later: Row) -> Row:
    """Both rows as one; parameters that only one of them knows were not measured in the other."""
    width = max(earlier.series_low.shape[1], later.series_low.shape[1])
    low = [_widened(row.series_low, width) for row in (earlier, later)]
    high = [_widened(row.series_high, width) for row in (earlier, later)]
    return Row(
        earlier.first,
        later.first + later.count - earlier.first,
        later.time_s,
        earlier.nonfinite + later.nonfinite,
        np.fmin(earlier.scalars_low, later.scalars_low),  # fmin and fmax pass over NaN
        np.fmax(earlier.scalars_high, later.scalars_high),
        np.fmin(*low),
        np.fmax(*high),
        earlier.nan_losses + later.nan_losses,
    )


def stack(rows: Sequence[Row], num_parameters: int) -> RunSteps:
    """Rows in ascending order as columns."""
    if not rows:
        return RunSteps.empty(num_parameters)
    width = max(num_parameters, *(row.series_low.shape[1] for row in rows))
    return RunSteps(
        first=np.array([row.first for row in rows], np.int64),
        count=np.array([row.count for row in rows], np.int64),
        time_s=np.array([row.time_s for row in rows]),
        scalars_low=np.stack([row.scalars_low for row in rows]),
        scalars_high=np.stack([row.scalars_high for row in rows]),
        series_low=np.stack([_widened(row.series_low, width) for row in rows]),
        series_high=np.stack([_widened(row.series_high, width) for row in rows]),
        nonfinite=np.array([row.nonfinite for row in rows], np.int64),
        nan_losses=np.array([row.nan_losses for row in rows], np.int64),
    )


def _widened(series: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    missing = width - series.shape[1]
    return np.pad(series, ((0, 0), (0, missing)), constant_values=np.nan) if missing else series
