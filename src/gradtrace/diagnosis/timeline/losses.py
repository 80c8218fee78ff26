"""Does the loss run away, or stop being a number?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.thresholds import DIVERGED_FACTOR, SUSTAINED_FRAC, SUSTAINED_ROWS, UPDATE_REPLACES
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import Scalar, Series
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradtrace.records.run import Run


def judge(run: Run) -> list[Finding]:
    """Divergence, and the first step that was not finite."""
    found = [_diverged(run), _not_finite(run)]
    return [finding for finding in found if finding is not None]


def last_rows(num_rows: int) -> int:
    """How many of the latest rows must agree before anything is said of them."""
    return max(SUSTAINED_ROWS, int(SUSTAINED_FRAC * num_rows))


def _finite_losses(run: Run) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Steps, and the smallest and largest loss, of the rows that have one."""
    low, high = run.steps.scalar(Scalar.LOSS)
    known = np.isfinite(low) & np.isfinite(high)
    return run.steps.first[known], low[known], high[known]


def _diverged(run: Run) -> Finding | None:
    steps, low, high = _finite_losses(run)
    width = last_rows(len(steps))
    if len(steps) < 2 * width:
        return None
    start = np.abs(high[:width]).max()  # the largest of the first: one small loss by chance is no measure
    reference = np.median(high[:width])
    limit = reference + (DIVERGED_FACTOR - 1.0) * start
    if not (low[-width:] > limit).all():
        return None
    below = np.flatnonzero(low <= limit)
    onset = int(steps[below[-1] + 1]) if len(below) else int(steps[0])
    before = float(np.median(low[: max(int(below[-1]) + 1, 1)])) if len(below) else float(reference)
    ratio = _largest_update(run, onset)
    told = f" Updates of {ratio:.2g} times the weights came before it." if ratio > UPDATE_REPLACES else ""
    return Finding(
        symptom=Symptom.EXPLODING,
        cause=Cause.LEARNING_RATE,
        where=("",),
        severity=Severity.CRITICAL,
        message=f"Since step {onset} the loss is more than {DIVERGED_FACTOR:g} times what it was at the start: "
        f"{before:.4g} before, {float(np.median(low[-width:])):.4g} now.{told}",
        evidence=(Evidence("loss before", before), Evidence("loss now", float(np.median(low[-width:])))),
        remedies=remedies_for(Symptom.EXPLODING, Cause.LEARNING_RATE),
        step=onset,
    )


def _largest_update(run: Run, until: int) -> float:
    """The largest update-to-weight ratio of a matrix up to step `until`; 0 where none was measured."""
    matrices = [i for i, parameter in enumerate(run.header.parameters) if len(parameter.shape) > 1]
    _, high = run.steps.series(Series.UPDATE_RATIO)
    seen = high[run.steps.first <= until][:, matrices]
    seen = seen[np.isfinite(seen)]
    return float(seen.max()) if seen.size else 0.0


def _not_finite(run: Run) -> Finding | None:
    bad = np.flatnonzero(run.steps.nonfinite)
    if not len(bad):
        return None
    onset = int(run.steps.first[bad[0]])
    steps, low, high = _finite_losses(run)
    earlier = steps < onset
    grew = bool(earlier.any()) and high[earlier].max() > DIVERGED_FACTOR * max(np.abs(high[earlier][:1]).max(), 1e-30)
    ratio = _largest_update(run, onset)
    fast = grew or ratio > UPDATE_REPLACES
    came = f"the loss had grown to {high[earlier].max():.4g}" if grew else "the loss had been steady"
    last = f" (last {low[earlier][-1]:.4g})" if earlier.any() else ""
    cause = Cause.LEARNING_RATE if fast else Cause.UNSAFE_OP
    return Finding(
        symptom=Symptom.NONFINITE,
        cause=cause,
        where=("",),
        severity=Severity.CRITICAL,
        message=f"Since step {onset} the loss or a gradient is not finite, in {int(run.steps.nonfinite.sum())} steps; "
        f"before, {came}{last}.",
        evidence=(Evidence("steps that are not finite", float(run.steps.nonfinite.sum()), "steps"),),
        remedies=remedies_for(Symptom.NONFINITE, cause),
        step=onset,
    )
