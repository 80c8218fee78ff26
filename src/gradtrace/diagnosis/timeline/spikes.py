"""Did single steps stand out? A robust z-score of log norms, for norms larger than those that training began with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.thresholds import SPIKE_CHANCE, SPIKE_WINDOW
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import Scalar, Series
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradtrace.records.run import Run


def judge(run: Run) -> list[Finding]:
    """A remark on steps far above the rest: beyond what so many normal numbers would reach, and above the run's start.

    Near a minimum the norm falls by decades, and a batch that is not fitted yet stands out of nothing. Its step is no
    larger than the first ones were.
    """
    _, high = run.steps.scalar(Scalar.GRADIENT_NORM)
    known = np.flatnonzero(np.isfinite(high) & (high > 0.0))
    if len(known) <= SPIKE_WINDOW:
        return []
    logs = np.log10(high[known])
    earlier = np.lib.stride_tricks.sliding_window_view(logs[:-1], SPIKE_WINDOW)
    above = logs[SPIKE_WINDOW:] - np.median(earlier, axis=1)  # the norm drifts: each row against those before it
    spread = max(1.4826 * float(np.median(np.abs(above - np.median(above)))), 0.05)
    limit = max(math.sqrt(2.0 * math.log(len(above) / SPIKE_CHANCE)) * spread, 1.0)
    found = SPIKE_WINDOW + np.flatnonzero((above > limit) & (logs[SPIKE_WINDOW:] > logs[:SPIKE_WINDOW].max()))
    found = np.array([place for place in found if _are_its_own(run, known[place - SPIKE_WINDOW : place + 1])], int)
    if not len(found):
        return []
    place = int(found[np.argmax(above[found - SPIKE_WINDOW])])
    worst, usual = int(known[place]), 10 ** float(np.median(logs[place - SPIKE_WINDOW : place]))
    rows = "one row" if len(found) == 1 else f"{len(found)} rows"
    return [
        Finding(
            symptom=Symptom.EXPLODING,
            cause=Cause.LEARNING_RATE,
            where=("",),
            severity=Severity.INFO,
            message=f"The gradient norm spikes in {rows}, most at step {int(run.steps.first[worst])}: "
            f"{high[worst]:.3g} where {usual:.3g} was usual. Clipping keeps such steps small.",
            evidence=(Evidence("largest norm", float(high[worst])), Evidence("spikes", float(len(found)), "rows")),
            remedies=remedies_for(Symptom.EXPLODING, Cause.LEARNING_RATE),
            step=int(run.steps.first[worst]),
        )
    ]


def _are_its_own(run: Run, rows: NDArray[np.intp]) -> bool:
    """Whether the last of `rows` can be held against those before: their median is of what carries it in half of them.

    Of two optimizers that step in turns, the second's first step stands out from the first's.
    """
    sizes = run.steps.series(Series.GRADIENT_NORM)[1][rows]
    if not np.isfinite(sizes[-1]).any():
        return True
    before = sizes[:-1, np.nanargmax(sizes[-1])]
    return 2 * int(np.isfinite(before).sum()) >= len(before)
