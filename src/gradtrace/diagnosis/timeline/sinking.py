"""Does the loss fall without an end?

A loss that has a minimum is approached at a slackening pace: near it the slope goes to zero. One that nothing bounds
(scores where log probabilities belong, a distance without its margin, an error with a minus) is lowered by every growth
of the weights, and the faster the larger they are: a homogeneous network of L layers has f(c w) = c^L f(w).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.thresholds import CLEAR_DECADES, SUSTAINED_ROWS
from gradtrace.diagnosis.timeline.losses import finite_losses, last_rows
from gradtrace.diagnosis.timeline.trainings import trainings
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import Series
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.of_losses import BOUNDED

if TYPE_CHECKING:
    from gradtrace.records.run import Run


def judge(run: Run) -> list[Finding]:
    """Of each training by one optimizer: of several, one may lower what another one raises, as in a game."""
    alone = [each for each in trainings(run) if len(_optimizers(run, *each)) < 2]
    return [finding for each in alone if (finding := _sinks(run, *each)) is not None]


def _optimizers(run: Run, begin: float, end: float) -> set[int | None]:
    """Of the parameters that got a gradient within these steps."""
    rows = (run.steps.first >= begin) & (run.steps.first < end)
    got = np.nan_to_num(run.steps.series(Series.GRADIENT_NORM)[1][rows]) > 0.0
    return {run.header.parameters[column].optimizer for column in np.unique(np.nonzero(got)[1])}


def _sinks(run: Run, begin: float, end: float) -> Finding | None:
    """Decades below zero, by the first losses' size, and faster in the last third of the steps than before."""
    steps, _, high = finite_losses(run)
    within = (steps >= begin) & (steps < end)
    steps, high = steps[within], high[within]
    width = last_rows(len(steps))
    if len(steps) < 3 * width:
        return None
    start, late = high[:SUSTAINED_ROWS], high[-width:]
    size = float(np.abs(start).max())
    if not late.max() < -(10**CLEAR_DECADES) * size:
        return None
    third = steps >= steps[0] + 2 * (steps[-1] - steps[0]) / 3
    two_thirds = high[~third][-width:]
    earlier, now = float(np.median(start)) - float(np.median(two_thirds)), float(np.median(late))
    later = float(np.median(two_thirds)) - now
    if len(two_thirds) < width or later <= earlier / 2:
        return None
    onset = int(steps[int(np.argmax(high < -size))])
    return Finding(
        symptom=Symptom.EXPLODING,
        cause=Cause.LOSS_FUNCTION,
        where=("",),
        severity=Severity.WARNING,
        message=f"The loss falls without an end: from {np.median(start):.4g} at the start to {now:.4g}, and "
        f"{later / (earlier + later):.0%} of it in the last third of the steps. A loss that has a minimum is "
        "approached more and more slowly; this one is lowered by whatever makes the weights larger.",
        evidence=(
            Evidence("loss at the start", float(np.median(start))),
            Evidence("loss now", now),
            Evidence("share of the last third", later / (earlier + later)),
        ),
        remedies=(BOUNDED,),
        step=onset,
    )
