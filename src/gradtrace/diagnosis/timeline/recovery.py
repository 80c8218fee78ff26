"""Has a gradient that vanished in a whole trace come back in the steps after it, or is it as far behind as ever?

The trace knows why, the norms of every step know how it went on. What the gradient of the first layer's weights has
gained since on that of the late layer that the trace holds it against is taken off what was lost: it is a ratio of the
same two layers, so that what moves all gradients alike, the loss and its scale, cancels out.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gradtrace.diagnosis.layer import owner
from gradtrace.diagnosis.profile import profiles
from gradtrace.diagnosis.thresholds import (
    CLEAR_DECADES,
    EVENED_OUT,
    FOLLOWED_STEPS,
    HEALTHY_DECADES,
    SUSTAINED_ROWS,
)
from gradtrace.diagnosis.timeline.losses import falls_since, followed, halved_since, last_rows
from gradtrace.diagnosis.wording import EXTENT, EXTENT_PER_UNIT, decades
from gradtrace.measure.names import Names
from gradtrace.measure.path import Paths
from gradtrace.records.run import Series
from gradtrace.records.vocabulary import Severity, Symptom

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradtrace.diagnosis.profile import Profile
    from gradtrace.records.finding import Finding
    from gradtrace.records.run import Run
    from gradtrace.records.trace import Op, Trace


def with_recovery(finding: Finding, trace: Trace, run: Run, step: int, limit: float) -> Finding:
    """What vanished in `trace`, taken at `step`; a remark once less than `limit` decades are left, whatever came of it.

    All of the latest rows must agree, and as many as say anything of a run's state now must have come since. What was
    no more than a warning, and was not looked at again while the loss halved, is a remark: is it so still?
    """
    if not is_of_depth(finding) or finding.severity is Severity.INFO:
        return finding
    since = _since(trace, run, step)
    if since is not None and finding.severity is Severity.WARNING and halved_since(run, since.last):
        told = f"Since step {since.last}, the latest at which gradients were measured, the loss has halved at least."
        return replace(finding, severity=Severity.INFO, message=f"{finding.message} {told}")
    extent = min(-e.value for e in finding.evidence if e.name in (EXTENT, EXTENT_PER_UNIT))
    left = extent - since.regained.min() if since is not None else math.inf
    if since is None or left >= (limit if finding.severity is Severity.WARNING else CLEAR_DECADES):
        return finding
    names = Names(trace)
    early, near = (names.told(owner(op.weights[-1])) for op in (since.profile.first, since.profile.reference))
    nearer = decades(since.regained.min())
    told = f"In the steps since, the gradient of {early} has come {nearer} nearer to that of {near}."
    severity = Severity.WARNING if left >= limit else Severity.INFO
    return replace(finding, severity=severity, message=f"{finding.message} {told}")


def is_of_depth(finding: Finding) -> bool:
    """Whether it tells of a gradient that vanishes on its way from a late layer to an early one."""
    return finding.symptom is Symptom.VANISHING and any(e.name == EXTENT for e in finding.evidence)


def may_pass(finding: Finding, run: Run) -> bool:
    """Whether too few steps have come since for `with_recovery` to take it back: who tells of it now may be wrong soon.

    As in a game of two players whose first steps are not like those to come; nor does each have a backward pass in the
    first ones, and what one step brings no gradient the next one may.
    """
    is_remark = finding.severity is Severity.INFO
    waits = is_remark if finding.symptom is Symptom.DISCONNECTED else is_of_depth(finding) and not is_remark
    if not waits or finding.step is None:
        return False
    return int(np.count_nonzero(run.steps.first > finding.step)) < SUSTAINED_ROWS


def is_as_far_behind(trace: Trace, run: Run, step: int) -> bool:
    """Whether what was clear-cut in `trace`, taken at `step`, is so in each of the latest rows, and nothing is learnt.

    An optimizer that evens it out had its time by then (`FOLLOWED_STEPS`), and half of what is beyond healthy is left.
    """
    since = _since(trace, run, step) if followed(run) >= FOLLOWED_STEPS and not falls_since(run, step) else None
    if since is None:
        return False
    lost = -since.profile.lost
    left = lost - float(since.regained.max())
    return left >= CLEAR_DECADES and left - HEALTHY_DECADES > EVENED_OUT * (lost - HEALTHY_DECADES)


class _Since(NamedTuple):
    """The worst path of a trace, and by how many decades its first layer came nearer, in each of the latest rows."""

    profile: Profile
    regained: NDArray[np.float64]
    last: int
    """The step of the latest of these rows."""


def _since(trace: Trace, run: Run, step: int) -> _Since | None:
    """None where nothing vanished there that can be measured, or too few rows have come since."""
    worst = min(profiles(trace, Paths(trace)), key=lambda profile: profile.lost, default=None)
    if worst is None or not np.isfinite(worst.lost):
        return None
    columns = {parameter.name: i for i, parameter in enumerate(run.header.parameters)}
    first, late = (_columns(op, columns) for op in (worst.first, worst.reference))
    at = int(np.searchsorted(run.steps.first, step, side="right")) - 1
    if not first or not late or at < 0:
        return None
    behind = _behind(run, first, late)
    known = np.flatnonzero(np.isfinite(behind))
    later = behind[known[known > at]]
    width = last_rows(len(later))
    if len(later) < width or not np.isfinite(behind[at]):
        return None
    return _Since(worst, behind[at] - later[-width:], int(run.steps.first[known[-1]]))


def _columns(op: Op, columns: dict[str, int]) -> list[int]:
    return [columns[name] for name in op.weights if name in columns]


def _behind(run: Run, first: list[int], late: list[int]) -> NDArray[np.float64]:
    """[decades] By row, how far the gradient of the first layer's weights is behind; NaN where it is not known."""
    low, high = run.steps.series(Series.GRADIENT_NORM)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        lost = np.log10(np.linalg.norm(high[:, late].astype(np.float64), axis=1))
        lost -= np.log10(np.linalg.norm(low[:, first].astype(np.float64), axis=1))
    return np.where(np.isfinite(lost), lost, np.nan)
