"""Which layers fall behind the others, and since when? And did single steps stand out?

A parameter's gradient is compared with the median of all at the same step, so that convergence, schedules and the scale
of the loss, which move all alike, cancel out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.profile import owner
from gradtrace.diagnosis.thresholds import CLEAR_DECADES, SPIKE_CHANCE, SPIKE_WINDOW
from gradtrace.diagnosis.timeline.losses import last_rows
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import Scalar, Series
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradtrace.records.run import Run


def judge(run: Run) -> list[Finding]:
    """Layers that stopped, layers that fell behind by `CLEAR_DECADES`, and spikes (a remark)."""
    columns = [i for i, parameter in enumerate(run.header.parameters) if len(parameter.shape) > 1]
    low, high = (side[:, columns] for side in run.steps.series(Series.GRADIENT_NORM))
    names = [run.header.parameters[i].name for i in columns]
    found = [_stopped(run, low, high, names), _behind(run, high, names), _spikes(run)]
    return [finding for finding in found if finding is not None]


def _stopped(run: Run, low: NDArray[np.float32], high: NDArray[np.float32], names: list[str]) -> Finding | None:
    """Matrices with a gradient of exactly zero in all of the latest rows, and one before."""
    measured = np.flatnonzero(~np.isnan(high).all(axis=1))
    width = last_rows(len(measured))
    if len(measured) < 2 * width:
        return None
    silent = (high[measured[-width:]] == 0.0).all(axis=0)
    stopped = np.flatnonzero(silent & (low[measured[:width]] > 0.0).any(axis=0))
    if not len(stopped):
        return None
    column = int(stopped[0])
    onset = int(run.steps.first[measured[np.flatnonzero(high[measured, column] > 0.0)[-1] + 1]])
    most = 2 * len(stopped) >= len(names)
    return Finding(
        symptom=Symptom.DEAD_UNITS,
        cause=Cause.SATURATED_PREACTIVATION,
        where=tuple(dict.fromkeys(owner(names[i]) for i in stopped)),
        severity=Severity.WARNING if most else Severity.INFO,
        message=f"Since step {onset} the gradient of {names[column]} is exactly zero ({len(stopped)} of {len(names)} "
        "weights alike); before it was not: its units died, or the loss does not use it any more.",
        evidence=(Evidence("weights without gradient", float(len(stopped)), "weights"),),
        remedies=remedies_for(Symptom.DEAD_UNITS, Cause.SATURATED_PREACTIVATION),
        step=onset,
    )


def _behind(run: Run, high: NDArray[np.float32], names: list[str]) -> Finding | None:
    measured = np.flatnonzero((high > 0.0).any(axis=1))
    width = last_rows(len(measured))
    if len(measured) < 2 * width or len(names) < 3:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        decades = np.log10(np.where(high[measured] > 0.0, high[measured], np.nan))
    relative = decades - np.nanmedian(decades, axis=1, keepdims=True)
    known = ~np.isnan(relative[:width]).all(axis=0) & ~np.isnan(relative[-width:]).any(axis=0)
    if not known.any():
        return None
    start = np.full(len(names), np.nan)
    start[known] = np.nanmedian(relative[:width][:, known], axis=0)
    fell = start - relative[-width:].max(axis=0)  # by its best of the latest rows
    column = int(np.nanargmax(fell))
    if not fell[column] >= CLEAR_DECADES:
        return None
    above = np.flatnonzero(relative[:, column] > start[column] - CLEAR_DECADES)
    onset = int(run.steps.first[measured[min(int(above[-1]) + 1, len(measured) - 1)]])
    return Finding(
        symptom=Symptom.VANISHING,
        cause=Cause.SATURATED_PREACTIVATION,
        where=(owner(names[column]),),
        severity=Severity.WARNING,
        message=f"Since step {onset} the gradient of {names[column]} has fallen behind that of the other layers by "
        f"{fell[column]:.1f} decades, compared with the start of the run.",
        evidence=(Evidence("fallen behind", float(fell[column]), "decades"),),
        remedies=remedies_for(Symptom.VANISHING, Cause.SATURATED_PREACTIVATION),
        step=onset,
    )


def _spikes(run: Run) -> Finding | None:
    """Single steps far above the rest: a robust z-score of log norms, beyond what so many normal ones would reach."""
    _, high = run.steps.scalar(Scalar.GRADIENT_NORM)
    known = np.flatnonzero(np.isfinite(high) & (high > 0.0))
    if len(known) <= SPIKE_WINDOW:
        return None
    logs = np.log10(high[known])
    before = np.lib.stride_tricks.sliding_window_view(logs[:-1], SPIKE_WINDOW)
    above = logs[SPIKE_WINDOW:] - np.median(before, axis=1)  # the norm drifts: each row against those before it
    spread = max(1.4826 * float(np.median(np.abs(above - np.median(above)))), 0.05)
    limit = max(math.sqrt(2.0 * math.log(len(above) / SPIKE_CHANCE)) * spread, 1.0)
    found = SPIKE_WINDOW + np.flatnonzero(above > limit)
    spikes = known[found]
    if not len(spikes):
        return None
    place = int(found[np.argmax(above[found - SPIKE_WINDOW])])
    worst, usual = int(known[place]), 10 ** float(np.median(logs[place - SPIKE_WINDOW : place]))
    return Finding(
        symptom=Symptom.EXPLODING,
        cause=Cause.LEARNING_RATE,
        where=("",),
        severity=Severity.INFO,
        message=f"The gradient norm spikes in {len(spikes)} rows, most at step {int(run.steps.first[worst])}: "
        f"{high[worst]:.3g} where {usual:.3g} was usual. Clipping keeps such steps small.",
        evidence=(Evidence("largest norm", float(high[worst])), Evidence("spikes", float(len(spikes)), "rows")),
        remedies=remedies_for(Symptom.EXPLODING, Cause.LEARNING_RATE),
        step=int(run.steps.first[worst]),
    )
