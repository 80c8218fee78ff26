"""Does the gradient norm grow over the run, in which layer, and do the steps feel it?

Medians of log |g| over tenths of the rows, held against their own order: Mann and Kendall's S counts the pairs of
tenths that rise, less those that fall, and has variance n (n - 1) (2 n + 5) / 18 where nothing trends (Mann,
Nonparametric tests against trend, 1945). Growth most of which lies between two tenths is a jump. A loss that rises
k-fold by its scale takes the gradient along k-fold, so that much is its own. |g|^2 is a sum over the parameters, and so
is its growth.

Growth as such is no fault: weights that shrink under a norm, a network that leaves a small start, long pretraining.
It counts by what the steps make of it, and while the loss falls it is a remark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.layer import owner
from gradtrace.diagnosis.thresholds import (
    DEAD_SIGMAS,
    DIVERGED_FACTOR,
    DOMINANT_FRAC,
    SUSTAINED_FRAC,
    SUSTAINED_ROWS,
    UPDATE_HEALTHY,
    UPDATE_REPLACES,
)
from gradtrace.diagnosis.timeline.feeling import felt
from gradtrace.diagnosis.timeline.losses import moved
from gradtrace.diagnosis.wording import percent
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import Scalar, Series
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradtrace.diagnosis.timeline.feeling import Feeling
    from gradtrace.records.run import Run

GROWTH_OF_NORM = "growth of the gradient norm"
"""Evidence of a run."""

_TENTHS = round(1 / SUSTAINED_FRAC)
_ENOUGH = math.log10(DIVERGED_FACTOR)
"""[decades]"""


@dataclass(frozen=True, slots=True)
class Growth:
    """Of the gradient norm as a whole, or of one weight's, over some rows of a run."""

    rows: NDArray[np.int64]
    decades: float
    """From the first tenth to the last, beyond the loss's own."""
    norms: tuple[float, float]
    """In the first tenth and the last."""
    column: int
    """The weight; of the whole norm the parameter that has most of its growth."""
    share: float | None = None
    """That parameter's part in the growth of |g|^2; None: the growth is a single weight's."""


def judge(run: Run) -> list[Finding]:
    """Over the whole run, else over its second half: one finding; a remark only where the whole norm grows."""
    norms = run.steps.scalar(Scalar.GRADIENT_NORM)[0]
    known = np.flatnonzero(np.isfinite(norms) & (norms > 0.0))
    for rows in (known, known[len(known) // 2 :]):
        if len(rows) < _TENTHS * SUSTAINED_ROWS:
            continue
        whole = _whole(run, rows)
        found = [_finding(run, growth) for growth in ([whole] if whole is not None else []) + _single(run, rows)]
        found = [f for i, f in enumerate(found) if f.severity is not Severity.INFO or (i == 0 and whole is not None)]
        if found:
            return [max(found, key=lambda finding: finding.severity.rank)]
    return []


def growth_of(finding: Finding) -> float | None:
    """[decades] What a finding of this rule found; None for one of another."""
    return next((evidence.value for evidence in finding.evidence if evidence.name == GROWTH_OF_NORM), None)


def trend(values: NDArray[np.float64]) -> tuple[float, float]:
    """(standard deviations by which the order of `values` is a rising one, fraction of the rise in the largest leap).

    >>> [round(part, 2) for part in trend(np.arange(10.0))]
    [4.02, 0.11]
    >>> [round(part, 2) for part in trend(np.array([0.0] * 5 + [9.0] * 5))]
    [2.24, 1.0]
    """
    n = len(values)
    early, late = np.triu_indices(n, 1)
    sigmas = float(np.sign(values[late] - values[early]).sum()) / math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    rise = float(values[-1] - values[0])
    return sigmas, float(np.diff(values).max()) / rise if rise > 0.0 else math.inf


def _tenths(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([np.median(part) for part in np.array_split(values, _TENTHS)])


def _rise(logs: NDArray[np.float64], explained: NDArray[np.float64]) -> tuple[float, tuple[float, float]] | None:
    """(decades beyond what is explained, norms at both ends) of a rise that is sustained; None where there is none."""
    levels = _tenths(logs)
    beyond = levels - explained
    decades = float(beyond[-1] - beyond[0])
    sigmas, leap = trend(beyond)
    if decades < _ENOUGH or sigmas < DEAD_SIGMAS or leap > DOMINANT_FRAC:
        return None
    return decades, (10 ** float(levels[0]), 10 ** float(levels[-1]))


def _whole(run: Run, rows: NDArray[np.int64]) -> Growth | None:
    """Of the norm of all gradients together, and who has most of it."""
    risen = _rise(np.log10(run.steps.scalar(Scalar.GRADIENT_NORM)[0][rows]), _explained(run, rows))
    columns, before, now = _by_parameter(run, rows)
    # what was not there before, a layer that was frozen, has not grown
    if risen is None or not len(columns) or np.log10(np.linalg.norm(now) / np.linalg.norm(before)) < _ENOUGH:
        return None
    grown = np.square(now) - np.square(before)
    most = int(np.argmax(grown))
    return Growth(rows, *risen, column=int(columns[most]), share=float(grown[most] / grown[grown > 0.0].sum()))


def _single(run: Run, rows: NDArray[np.int64]) -> list[Growth]:
    """Of each weight whose own gradient rises: the whole may be that of a layer that does not."""
    columns, before, now = _by_parameter(run, rows)
    ahead = columns[now >= before * DIVERGED_FACTOR]
    found = []
    for column in (int(column) for column in ahead if len(run.header.parameters[column].shape) > 1):
        norms = run.steps.series(Series.GRADIENT_NORM)[0][rows, column].astype(np.float64)
        own = rows[np.isfinite(norms) & (norms > 0.0)]
        if len(own) < _TENTHS * SUSTAINED_ROWS:
            continue
        risen = _rise(np.log10(norms[np.isfinite(norms) & (norms > 0.0)]), _explained(run, own))
        found += [Growth(own, *risen, column=column)] if risen is not None else []
    return found


def _explained(run: Run, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """[decades, tenths] What a loss above its start makes of the gradient by its scale; 0 where that is not known."""
    losses = run.steps.scalar(Scalar.LOSS)[0][rows]
    if not (np.isfinite(losses) & (losses > 0.0)).all():
        return np.zeros(_TENTHS)
    levels = _tenths(np.log10(losses))
    above: NDArray[np.float64] = np.maximum(levels - levels[0], 0.0)
    return above


def _by_parameter(
    run: Run, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Columns of parameters that are trained and had a gradient in the first tenth and in the last; its medians."""
    parts = np.array_split(rows, _TENTHS)
    gradients = run.steps.series(Series.GRADIENT_NORM)[0]
    first, last = (np.where(np.isfinite(gradients[part]), gradients[part], np.nan) for part in (parts[0], parts[-1]))
    columns = np.flatnonzero(~np.isnan(first).all(axis=0) & ~np.isnan(last).all(axis=0))
    before, now = (np.nanmedian(part[:, columns].astype(np.float64), axis=0) for part in (first, last))
    counts = before > 0.0
    held = np.array([run.header.parameters[i].optimizer is not None for i in columns], bool)
    if held.any():  # others are neither moved nor cleared: theirs is the sum of all gradients so far
        counts &= held
    return columns[counts], before[counts], now[counts]


def _finding(run: Run, growth: Growth) -> Finding:
    parameter = run.header.parameters[growth.column]
    start = int(run.steps.first[growth.rows[0]])
    steps = felt(run, growth.rows, growth.column, growth.decades)
    severity, told = _how_grave(run, growth, steps)
    of = "the gradient norm" if growth.share is not None else f"the gradient of {parameter.name}"
    most = (
        f" {percent(round(growth.share, 2))} of its square's growth is in {parameter.name}."
        if growth.share is not None
        else ""
    )
    return Finding(
        symptom=Symptom.EXPLODING,
        cause=Cause.LEARNING_RATE,
        where=(owner(parameter.name),),
        severity=severity,
        message=f"Since step {start} {of} has grown steadily, from {growth.norms[0]:.3g} to {growth.norms[1]:.3g}, "
        f"which the loss does not explain.{most} {steps.sentence}{told}",
        evidence=(
            Evidence(GROWTH_OF_NORM, growth.decades, "decades"),
            *([Evidence("share of the parameter", growth.share, "fraction")] if growth.share is not None else []),
            *([Evidence("update to weight ratio", steps.now)] if steps.now else []),
        ),
        remedies=remedies_for(Symptom.EXPLODING, Cause.LEARNING_RATE) if severity is not Severity.INFO else (),
        step=start,
    )


def _how_grave(run: Run, growth: Growth, steps: Feeling) -> tuple[Severity, str]:
    """By what the steps have become, and by where the loss goes in the second half of the rows, and since the first."""
    middle = int(run.steps.first[growth.rows[len(growth.rows) // 2]])
    lately, in_all = moved(run, middle), moved(run, int(run.steps.first[growth.rows[0]]))
    if lately == -1:
        return Severity.INFO, " The loss keeps falling."
    if not steps.grew or steps.now <= UPDATE_HEALTHY or lately is None:
        return Severity.INFO, ""
    if in_all == 1 and steps.now > UPDATE_REPLACES:
        return Severity.CRITICAL, " The loss rises with them."
    return Severity.WARNING, " The loss does not fall any more: the steps are too large for it by now."
