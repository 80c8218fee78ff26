"""Do the steps grow with the gradient? Seen in the steps themselves; why not is asked afterwards.

A step of SGD is the rate times the gradient. Adam divides it by the gradient's own size, clipping caps it, a schedule
may lower the rate meanwhile, and of a weight that grows along the same step is a smaller part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.thresholds import DIVERGED_FACTOR, DOMINANT_FRAC
from gradtrace.diagnosis.timeline.before import matrices, ratios_of_matrices
from gradtrace.diagnosis.timeline.losses import last_rows
from gradtrace.records.run import Scalar

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradtrace.records.run import Run


@dataclass(frozen=True, slots=True)
class Feeling:
    """|update| / |weight| at the start of some rows and at their end; 0 where too few were measured."""

    before: float
    now: float
    grew: bool
    """At least half as many decades as the gradient, or tenfold."""
    sentence: str


def felt(run: Run, rows: NDArray[np.int64], column: int, decades: float) -> Feeling:
    """What `rows`, in which the gradient grew by `decades`, made of the steps of one parameter, or of all matrices."""
    columns = matrices(run)
    ratios = ratios_of_matrices(run)[rows]
    ratios = ratios[:, [columns.index(column)]] if column in columns else ratios
    seen = ratios[np.isfinite(ratios).any(axis=1)]
    width = last_rows(len(seen))
    if len(seen) < 2 * width or not np.nanmax(seen) > 0.0:
        return Feeling(0.0, 0.0, grew=False, sentence="By how much the steps moved is not known.")
    largest = np.nanmax(seen, axis=1)
    before, now = float(np.median(largest[:width])), float(np.median(largest[-width:]))
    sizes = f"a step was {before:.2g} of the weight, and is {now:.2g} now"
    if now >= max(before, float(np.finfo(np.float32).tiny)) * min(10 ** (DOMINANT_FRAC * decades), DIVERGED_FACTOR):
        return Feeling(before, now, grew=True, sentence=f"The steps grow with it: {sizes}.")
    return Feeling(
        before, now, grew=False, sentence=f"The steps do not feel it: {sizes}{_why(run, rows, column, decades)}."
    )


def _why(run: Run, rows: NDArray[np.int64], column: int, decades: float) -> str:
    """What stands between gradient and step, in words with a colon in front; '' where nothing is known of it."""
    if _grew(run.steps.scalar(Scalar.CLIPPED_NORM)[0][rows]) < DOMINANT_FRAC * decades:
        return ": clipping holds them"
    number = run.header.parameters[column].optimizer
    if number is not None and number < len(run.header.optimizers) and run.header.optimizers[number].adaptive:
        return f": {run.header.optimizers[number].kind} divides by the gradient's own size"
    if -_grew(run.steps.scalar(Scalar.LEARNING_RATE)[1][rows]) >= DOMINANT_FRAC * decades:
        return ": the learning rate was lowered meanwhile"
    return ""


def _grew(values: NDArray[np.float64]) -> float:
    """[decades] From the first of the known values to the last; infinite where none is known."""
    known = values[np.isfinite(values) & (values > 0.0)]
    width = last_rows(len(known))
    if len(known) < 2 * width:
        return float("inf")
    return float(np.log10(np.median(known[-width:]) / np.median(known[:width])))
