"""What does one ask of a run first? Steps seen, loss from first to last, gradient norm, speed, cost of watching."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.records.run import Scalar
from gradtrace.report.words import short

if TYPE_CHECKING:
    from gradtrace.records.run import Run


UNREAD_FRAC = 0.1
"""Of a run's steps: where more are left after the last loss that was read, it is no loss of the run's end."""


def last_step(run: Run) -> int:
    """The number of the last step that was seen; -1 before the first."""
    return int(run.steps.first[-1] + run.steps.count[-1]) - 1 if len(run.steps.first) else -1


def at_end(run: Run, name: Scalar) -> tuple[int, float] | None:
    """(step, value) of the latest row that knows it, NaN where the loss was that; None: never measured."""
    low, high = run.steps.scalar(name)
    for row in range(len(high) - 1, -1, -1):
        step = int(run.steps.first[row] + run.steps.count[row]) - 1
        if name is Scalar.LOSS and run.steps.nan_losses[row]:
            return step, math.nan
        if not math.isnan(high[row]):
            return step, float(high[row] if math.isinf(high[row]) else low[row])
    return None


def at_start(run: Run, name: Scalar) -> float | None:
    """The first value that is known."""
    high = run.steps.scalar(name)[1]
    known = np.flatnonzero(~np.isnan(high))
    return float(high[known[0]]) if known.size else None


def last(run: Run, name: Scalar) -> str:
    """For a table: the value at the end, ``NaN`` where it was none, ``-`` where it was not measured."""
    found = at_end(run, name)
    return "-" if found is None else short(found[1])


def steps_told(run: Run) -> str:
    """``1,000``, ``1,000 (412 measured)`` where the watch rested through some, ``7, not finished``."""
    known = ~np.isnan(run.steps.scalar(Scalar.GRADIENT_NORM)[1])
    measured = int(run.steps.count[known].sum())
    told = f"{run.steps.num_steps:,}" + (f" ({measured:,} measured)" if measured < run.steps.num_steps else "")
    return f"{told}{'' if run.finished else ', not finished'}"


def loss_told(run: Run) -> str:
    """``2.3 to 0.15``, ``2.3 to NaN at step 41``, ``2.3 to 2.1 (read last at step 7)``; '' without a loss."""
    first, end = at_start(run, Scalar.LOSS), at_end(run, Scalar.LOSS)
    if end is None:
        return ""
    started = f"{short(first)} to " if first is not None else ""
    broke = first_broken(run)
    at = f" at step {broke:,}" if not math.isfinite(end[1]) and broke is not None else ""
    if not at and last_step(run) - end[0] > UNREAD_FRAC * run.steps.num_steps:
        at = f" (read last at step {end[0]:,})"
    return f"{started}{short(end[1])}{at}"


def first_broken(run: Run) -> int | None:
    """The first step whose loss or gradients were not finite (of a pooled row its first); None: none."""
    rows = np.flatnonzero(run.steps.nonfinite)
    return int(run.steps.first[rows[0]]) if rows.size else None


def speed(run: Run) -> str:
    """Steps a second over the whole run."""
    seconds = float(run.steps.time_s[-1]) if len(run.steps.time_s) else 0.0
    return short((last_step(run) + 1) / seconds) if seconds > 0 else "?"


def cost_told(run: Run) -> str:
    """``1.6 % of 63 s (norms 0.7, hooks 0.4, traces 0.5)``; '' where it is not known."""
    cost = run.cost
    if cost is None or not cost.training_s > 0.0:
        return ""
    bare_s = max(cost.training_s - cost.watching_s, 1e-9)
    parts = sorted(cost.parts_s, key=lambda part: -part[1])
    split = ", ".join(f"{name} {100 * seconds / bare_s:.1f}" for name, seconds in parts if seconds > 5e-4 * bare_s)
    return f"{100 * cost.frac:.1f} % of {short(bare_s)} s" + (f" ({split})" if split else "")


def facts(run: Run) -> list[tuple[str, str]]:
    """(name, value) of what a reader asks first."""
    if not len(run.steps.first):
        return [("Run", "no step yet")]
    told = [("Steps seen", steps_told(run))]
    if loss := loss_told(run):
        told.append(("Loss, first to last", loss))
    if (norm := at_end(run, Scalar.GRADIENT_NORM)) is not None:
        told.append(("Gradient norm", short(norm[1])))
    told.append(("Steps a second", speed(run)))
    if cost := cost_told(run):
        told.append(("Watching cost", cost))
    return told
