"""Is the loss stuck where no gradient leads out?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.thresholds import CLEAR_DECADES, SPIKE_WINDOW, SUSTAINED_ROWS
from gradtrace.diagnosis.timeline.before import before
from gradtrace.diagnosis.timeline.losses import last_rows
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import Scalar
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradtrace.records.run import Run


def judge(run: Run) -> list[Finding]:
    """The gradient has gone, and the loss is worse than before: at a minimum both would have fallen."""
    low, high = run.steps.scalar(Scalar.LOSS)
    norms = run.steps.scalar(Scalar.GRADIENT_NORM)[1]
    known = np.flatnonzero(np.isfinite(low) & np.isfinite(high) & np.isfinite(norms))
    width = last_rows(len(known))
    if len(known) < 2 * width:
        return []
    usual = float(np.median(norms[known[:width]]))
    gone: NDArray[np.bool_] = np.less(norms[known], 10**-CLEAR_DECADES * usual)
    first = _gone_since(gone)
    if first is None or first < SUSTAINED_ROWS:
        return []
    earlier = float(np.median(high[known[max(0, first - SPIKE_WINDOW) : first]]))
    now = low[known[-width:]]
    if not now.min() > earlier:
        return []
    onset = int(run.steps.first[known[first]])
    norm = float(np.median(norms[known[-width:]]))
    return [
        Finding(
            symptom=Symptom.LOSS_SATURATED,
            cause=Cause.SATURATED_PREACTIVATION,
            where=("",),
            severity=Severity.WARNING,
            message=f"Since step {onset} next to no gradient is left (norm {norm:.3g}, {usual:.3g} at the start), "
            f"while the loss is worse than before: {earlier:.4g} before, {float(np.median(now)):.4g} now. The output, "
            f"or what leads to it, is stuck where it is flat.{before(run, onset).sentence}",
            evidence=(
                Evidence("loss before", earlier),
                Evidence("loss now", float(np.median(now))),
                Evidence("gradient norm", norm),
            ),
            remedies=remedies_for(Symptom.LOSS_SATURATED, Cause.SATURATED_PREACTIVATION),
            step=onset,
        )
    ]


def _gone_since(gone: NDArray[np.bool_]) -> int | None:
    """The first of `SUSTAINED_ROWS` rows in a row in which it is gone, and of most of those that follow."""
    if not gone[-last_rows(len(gone)) :].mean() > 0.5:
        return None
    frac_from_here = np.cumsum(gone[::-1])[::-1] / np.arange(len(gone), 0, -1)
    in_a_row: NDArray[np.bool_] = np.all(np.lib.stride_tricks.sliding_window_view(gone, SUSTAINED_ROWS), axis=1)
    starts = np.flatnonzero(in_a_row & (frac_from_here[: len(in_a_row)] > 0.5))
    return int(starts[0]) if len(starts) else None
