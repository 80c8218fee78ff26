"""Is what a run's file holds what a writer puts there? SQLite takes any value in any column."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.records.run import EventKind, RunEvent
from gradtrace.runs.row import unpack

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gradtrace.runs.row import Row

MOST_STEPS = 2**53
"""Steps are drawn as floats."""
MOST_SIGNS = 10_000
"""Of an event's message; more is not shown."""


def checked_rows(found: Iterable[tuple[object, ...]], num_parameters: int, most_bytes: int) -> list[Row]:
    """The rows, in ascending order.

    Raises:
        ValueError: a value is not what a row has there, or there is more than a run may hold.
        struct.error: a row is too short.
    """
    rows: list[Row] = []
    end, num_bytes = 0, 0
    for first, count, time_s, nonfinite, packed in found:
        start, length, broken = checked_step(first), checked_step(count), checked_step(nonfinite)
        if start < end or length < 1 or broken > length:
            raise ValueError(f"the row of step {start} overlaps another, or counts what it has not")
        if type(time_s) is not float or not math.isfinite(time_s):
            raise ValueError(f"the row of step {start} has no time")
        if not isinstance(packed, bytes):
            raise ValueError(f"the row of step {start} holds no numbers")
        end, num_bytes = checked_step(start + length), num_bytes + len(packed)
        if num_bytes > most_bytes:
            raise ValueError(f"its rows are larger than {most_bytes >> 20} MiB, which no run's are")
        row = unpack(start, length, time_s, broken, packed)
        if row.series_low.shape[1] > num_parameters:
            raise ValueError(f"the row of step {start} has more parameters than the run")
        if row.nan_losses > length:
            raise ValueError(f"the row of step {start} counts more losses than it has steps")
        rows.append(row)
    return rows


def checked_step(value: object) -> int:
    """A step, or a number of steps; raises `ValueError` for anything else."""
    if type(value) is not int or not 0 <= value < MOST_STEPS:
        raise ValueError(f"{str(value)[:20]!r} is no number of steps")
    return value


def checked_event(step: object, kind: object, message: object) -> RunEvent:
    """An event; raises `ValueError` where it is none."""
    if not isinstance(kind, str) or not isinstance(message, str):
        raise ValueError("an event has no kind or no message")
    return RunEvent(checked_step(step), EventKind(kind), message[:MOST_SIGNS])
