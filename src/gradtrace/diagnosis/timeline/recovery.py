"""Has a gradient that vanished in a whole trace come back in the steps after it?

The trace knows why, the norms of every step know how it went on. What the gradient of the first layer's weights has
gained since on that of the late layer that the trace holds it against is taken off what was lost: it is a ratio of the
same two layers, so that what moves all gradients alike, the loss and its scale, cancels out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.layer import owner
from gradtrace.diagnosis.profile import profiles
from gradtrace.diagnosis.thresholds import CLEAR_DECADES
from gradtrace.diagnosis.timeline.losses import last_rows
from gradtrace.diagnosis.wording import EXTENT, EXTENT_PER_UNIT, decades
from gradtrace.measure.names import Names
from gradtrace.measure.path import Paths
from gradtrace.records.run import Series
from gradtrace.records.vocabulary import Severity, Symptom

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradtrace.records.finding import Finding
    from gradtrace.records.run import Run
    from gradtrace.records.trace import Op, Trace


def with_recovery(finding: Finding, trace: Trace, run: Run, step: int, limit: float) -> Finding:
    """What vanished in `trace`, taken at `step`; a remark once less than `limit` decades are left, whatever came of it.

    All of the latest rows must agree, and as many as say anything of a run's state now must have come since.
    """
    extents = [-e.value for e in finding.evidence if e.name in (EXTENT, EXTENT_PER_UNIT)]
    if finding.symptom is not Symptom.VANISHING or finding.severity is Severity.INFO or not extents:
        return finding
    worst = min(profiles(trace, Paths(trace)), key=lambda profile: profile.lost, default=None)
    if worst is None or not np.isfinite(worst.lost):
        return finding
    columns = {parameter.name: i for i, parameter in enumerate(run.header.parameters)}
    first, late = (_columns(op, columns) for op in (worst.first, worst.reference))
    at = int(np.searchsorted(run.steps.first, step, side="right")) - 1
    if not first or not late or at < 0:
        return finding
    behind = _behind(run, first, late)
    since = behind[at + 1 :]
    since = since[np.isfinite(since)]
    width = last_rows(len(since))
    if len(since) < width or not np.isfinite(behind[at]):
        return finding
    regained = float(behind[at] - since[-width:].max())  # by its worst of the latest rows
    left = min(extents) - regained
    if left >= (limit if finding.severity is Severity.WARNING else CLEAR_DECADES):
        return finding
    names = Names(trace)
    early, near = (names.told(owner(op.weights[-1])) for op in (worst.first, worst.reference))
    told = f"In the steps since, the gradient of {early} has come {decades(regained)} nearer to that of {near}."
    severity = Severity.WARNING if left >= limit else Severity.INFO
    return replace(finding, severity=severity, message=f"{finding.message} {told}")


def _columns(op: Op, columns: dict[str, int]) -> list[int]:
    return [columns[name] for name in op.weights if name in columns]


def _behind(run: Run, first: list[int], late: list[int]) -> NDArray[np.float64]:
    """[decades] By row, how far the gradient of the first layer's weights is behind; NaN where it is not known."""
    low, high = run.steps.series(Series.GRADIENT_NORM)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        lost = np.log10(np.linalg.norm(high[:, late].astype(np.float64), axis=1))
        lost -= np.log10(np.linalg.norm(low[:, first].astype(np.float64), axis=1))
    return np.where(np.isfinite(lost), lost, np.nan)
