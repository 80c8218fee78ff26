"""Which layers fall silent, or fall behind the others, and since when?

A parameter's gradient is compared with the median of all at the same step, so that convergence, schedules and the scale
of the loss, which move all alike, cancel out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.layer import owner
from gradtrace.diagnosis.thresholds import CLEAR_DECADES, DOMINANT_FRAC
from gradtrace.diagnosis.timeline.before import before, had_faded
from gradtrace.diagnosis.timeline.losses import last_rows
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import Scalar, Series
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradtrace.diagnosis.timeline.before import Before
    from gradtrace.records.run import Run


def judge(run: Run) -> list[Finding]:
    """Layers whose gradient is exactly zero now, and layers that fell behind by `CLEAR_DECADES`."""
    found = [_silent(run), _behind(run)]
    return [finding for finding in found if finding is not None]


def _silent(run: Run) -> Finding | None:
    """Matrices with a gradient of exactly zero in all of the latest rows, and one before.

    The gradient of W in W x + b is that of b times x. Where b's is not zero and W's is, x is: the units in front are
    dead. Where both are, nothing arrives: the layer is cut off, or saturated units behind it let nothing through, and
    then the gradient has faded before, or a step was too large.
    """
    low, high = run.steps.series(Series.GRADIENT_NORM)
    measured = np.flatnonzero(~np.isnan(high).all(axis=1))
    width = last_rows(len(measured))
    if len(measured) < 2 * width:
        return None
    latest = high[measured[-width:]]
    silent, heard = (latest == 0.0).all(axis=0), (latest > 0.0).any(axis=0)
    matrices = np.array([len(parameter.shape) > 1 for parameter in run.header.parameters])
    stopped = np.flatnonzero(silent & matrices & (low[measured[:width]] > 0.0).any(axis=0))
    if not len(stopped):
        return None
    names = [parameter.name for parameter in run.header.parameters]
    column = int(stopped[0])
    onset = int(run.steps.first[measured[np.flatnonzero(high[measured, column] > 0.0)[-1] + 1]])
    if not heard.any() and _has_nothing_to_learn(run, onset, width):
        return None
    biases = {owner(names[i]) for i in np.flatnonzero(heard & ~matrices)}
    dead = not heard.any() or any(owner(names[i]) in biases for i in stopped)
    led_up = before(run, onset)
    symptom, cause, why = _why_silent(dead, had_faded(high[measured, column]), led_up)
    if symptom is Symptom.DISCONNECTED and (_comes_and_goes(high[measured, column]) or _is_long_ago(run, onset)):
        return None
    return Finding(
        symptom=symptom,
        cause=cause,
        where=tuple(dict.fromkeys(owner(names[i]) for i in stopped)),
        severity=_how_grave(symptom, len(stopped), int(matrices.sum())),
        message=f"Since step {onset} the gradient of {names[column]} is exactly zero, and before it was not "
        f"({len(stopped)} of {matrices.sum()} weights alike): {why}.{led_up.sentence}",
        evidence=(Evidence("weights without gradient", float(len(stopped)), "weights"),),
        remedies=remedies_for(symptom, cause),
        step=onset,
    )


def _how_grave(symptom: Symptom, num_stopped: int, num_matrices: int) -> Severity:
    """A network that is dead as a whole, the head perhaps apart, learns nothing but a constant."""
    if symptom is Symptom.DISCONNECTED:
        return Severity.WARNING if 2 * num_stopped >= num_matrices else Severity.INFO
    whole = symptom is Symptom.DEAD_UNITS and num_stopped >= max(1, num_matrices - 1)
    return Severity.CRITICAL if whole else Severity.WARNING


def _why_silent(dead: bool, faded: bool, led_up: Before) -> tuple[Symptom, Cause, str]:
    flat = Cause.LEARNING_RATE if led_up.replaced else Cause.SATURATED_PREACTIVATION
    if dead:
        return Symptom.DEAD_UNITS, flat, "the units in front are all at zero"
    if faded or led_up.replaced:
        return Symptom.VANISHING, flat, "units that it feeds are saturated and let nothing through"
    return Symptom.DISCONNECTED, Cause.DETACHED_GRAPH, "the loss does not reach it any more"


def _comes_and_goes(norms: NDArray[np.float32]) -> bool:
    """Whether the gradient was zero before and came back: a clipped loss, or a head that not every batch asks for.

    What is cut stays cut.
    """
    heard = np.flatnonzero(norms > 0.0)
    return bool((norms[heard[0] : heard[-1]] == 0.0).any())


def _is_long_ago(run: Run, onset: int) -> bool:
    """Whether there have been more steps since the last that was measured than it had been silent for by then."""
    measured = np.flatnonzero(~np.isnan(run.steps.series(Series.GRADIENT_NORM)[1]).all(axis=1))
    seen = run.steps.first + run.steps.count
    return bool(seen[-1] - seen[measured[-1]] > seen[measured[-1]] - onset)


def _has_nothing_to_learn(run: Run, onset: int, width: int) -> bool:
    """No parameter has a gradient, and the loss is no higher than it ever was: a hinge that is satisfied."""
    low, high = run.steps.scalar(Scalar.LOSS)
    earlier = low[run.steps.first < onset]
    return bool(np.nanmax(high[-width:], initial=-np.inf) <= np.nanmin(earlier, initial=np.inf))


def _behind(run: Run) -> Finding | None:
    columns = [i for i, parameter in enumerate(run.header.parameters) if len(parameter.shape) > 1]
    names = [run.header.parameters[i].name for i in columns]
    high = run.steps.series(Series.GRADIENT_NORM)[1][:, columns]
    usable = np.isfinite(high) & (high > 0.0)
    measured = np.flatnonzero(usable.any(axis=1))
    width = last_rows(len(measured))
    if len(measured) < 2 * width or len(names) < 3:
        return None
    decades = np.log10(np.where(usable, high, 1.0)[measured])
    decades[~usable[measured]] = np.nan
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
    shrunk = _weights_shrank(run, columns)
    cause = Cause.SMALL_WEIGHTS if shrunk >= DOMINANT_FRAC * fell[column] else Cause.SATURATED_PREACTIVATION
    why = f" The weights have shrunk by {shrunk:.1f} decades together." if cause is Cause.SMALL_WEIGHTS else ""
    return Finding(
        symptom=Symptom.VANISHING,
        cause=cause,
        where=(owner(names[column]),),
        severity=Severity.WARNING,
        message=f"Since step {onset} the gradient of {names[column]} has fallen behind that of the other layers by "
        f"{fell[column]:.1f} decades, compared with the start of the run.{why or before(run, onset).sentence}",
        evidence=(Evidence("fallen behind", float(fell[column]), "decades"),),
        remedies=remedies_for(Symptom.VANISHING, cause),
        step=onset,
    )


def _weights_shrank(run: Run, columns: list[int]) -> float:
    """[decades] The sum over all matrices: what a gradient on its way through them lost by it."""
    norms: NDArray[np.float32] = run.steps.series(Series.WEIGHT_NORM)[1][:, columns]
    measured = np.flatnonzero(np.isfinite(norms).all(axis=1) & (norms > 0.0).all(axis=1))
    if len(measured) < 2:
        return 0.0
    return float(-np.log10(norms[measured[-1]] / norms[measured[0]]).sum())
