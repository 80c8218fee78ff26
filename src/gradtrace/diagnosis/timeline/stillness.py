"""Which weights are not moved any more, although others are, and since when?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.layer import owner
from gradtrace.diagnosis.thresholds import HALF_FORMATS, HEALTHY_DECADES
from gradtrace.diagnosis.timeline.before import had_faded, matrices
from gradtrace.diagnosis.timeline.creep import creeps
from gradtrace.diagnosis.timeline.losses import last_rows
from gradtrace.diagnosis.timeline.rate import comes_to_rest, standing_still
from gradtrace.diagnosis.timeline.rounding import overshot, rounded_away
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import Series
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradtrace.records.run import Run


def judge(run: Run) -> list[Finding]:
    """Weights that get a gradient and stay where they are; weights that no gradient comes to any more (a remark)."""
    found = [
        standing_still(run),
        comes_to_rest(run),
        creeps(run),
        rounded_away(run),
        overshot(run),
        _unmoved(run),
        _unreached(run),
    ]
    return [finding for finding in found if finding is not None]


def _unmoved(run: Run) -> Finding | None:
    """The update is exactly zero in all of the latest rows, the gradient is not, and its optimizer moves others.

    An optimizer that moves nothing is between its turns, or at the end of its schedule. In float32 steps are rounded
    away once training has converged, and fade before, or where the gradient has vanished: other rules tell of that.
    """
    ratios = run.steps.series(Series.UPDATE_RATIO)[1]
    gradients = run.steps.series(Series.GRADIENT_NORM)[0]
    measured = np.flatnonzero(np.isfinite(ratios).any(axis=1))
    width = last_rows(len(measured))
    if len(measured) < 2 * width:
        return None
    latest = measured[-width:]
    moves: NDArray[np.bool_] = np.any(ratios[latest] > 0.0, axis=0)
    still = (ratios[latest] == 0.0).all(axis=0) & (gradients[latest] > 0.0).all(axis=0)
    still &= (ratios[measured[:-width]] > 0.0).any(axis=0)
    columns = [i for i in matrices(run) if still[i] and _others_move(run, i, moves)]
    columns = [i for i in columns if _is_half(run, i) or not had_faded(ratios[measured, i])]
    columns = [
        i for i in columns if _is_half(run, i) or _could_move(ratios[measured, i], gradients[measured, i], width)
    ]
    if not columns:
        return None
    parameter = run.header.parameters[columns[0]]
    onset = _row_after(run, measured, ratios[measured, columns[0]] > 0.0)
    rounded = _is_half(run, columns[0])
    symptom, cause = (
        (Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT) if rounded else (Symptom.DISCONNECTED, Cause.DETACHED_GRAPH)
    )
    why = f"its steps are rounded away in {parameter.dtype}" if rounded else (
        "its learning rate is zero, or no optimizer holds it any more"
    )  # fmt: skip
    usual = float(np.nanmedian(np.where(ratios[measured, columns[0]] > 0.0, ratios[measured, columns[0]], np.nan)))
    return Finding(
        symptom=symptom,
        cause=cause,
        where=tuple(dict.fromkeys(owner(run.header.parameters[i].name) for i in columns)),
        severity=Severity.WARNING,
        message=f"Since step {onset} (measured every few steps) {parameter.name} does not move, although it has a "
        f"gradient and others move ({_alike(columns)}); before, a step moved it by {usual:.2g} of its size: {why}.",
        evidence=(Evidence("weights that do not move", float(len(columns)), "weights"),),
        remedies=remedies_for(symptom, cause),
        step=onset,
    )


def _could_move(ratios: NDArray[np.float32], gradients: NDArray[np.float32], width: int) -> bool:
    """Whether its steps were more than rounding, and the gradient of the latest rows is still about what made them."""
    moved = ratios > 0.0
    usual = float(np.median(gradients[moved]))
    vanished = float(np.median(gradients[-width:])) <= 10.0**-HEALTHY_DECADES * usual
    return not vanished and float(np.median(ratios[moved])) > float(np.finfo(np.float32).eps)


def _is_half(run: Run, column: int) -> bool:
    return run.header.parameters[column].dtype in HALF_FORMATS


def _others_move(run: Run, column: int, moves: NDArray[np.bool_]) -> bool:
    """Whether the optimizer that held this parameter at the start still moves another one."""
    holder = run.header.parameters[column].optimizer
    return any(moves[i] for i, other in enumerate(run.header.parameters) if other.optimizer == holder)


def _unreached(run: Run) -> Finding | None:
    """No gradient at all (``grad`` is None) in the latest rows, and one before: frozen on purpose, or cut off."""
    high = run.steps.series(Series.GRADIENT_NORM)[1]
    measured = np.flatnonzero(~np.isnan(high).all(axis=1))
    width = last_rows(len(measured))
    if len(measured) < 2 * width:
        return None
    absent: NDArray[np.bool_] = np.all(np.isnan(high[measured[-width:]]), axis=0)
    absent &= ~np.isnan(high[measured[:width]]).all(axis=0)
    columns = [i for i in matrices(run) if absent[i] and run.header.parameters[i].optimizer is not None]
    if not columns:
        return None
    name = run.header.parameters[columns[0]].name
    onset = _row_after(run, measured, ~np.isnan(high[measured, columns[0]]))
    return Finding(
        symptom=Symptom.DISCONNECTED,
        cause=Cause.DETACHED_GRAPH,
        where=tuple(dict.fromkeys(owner(run.header.parameters[i].name) for i in columns)),
        severity=Severity.INFO,
        message=f"Since step {onset} no gradient comes to {name} any more ({_alike(columns)}), which an optimizer "
        "held at the start: it was frozen, cut off (detach, no_grad), or what it belongs to is not used.",
        evidence=(Evidence("weights without gradient", float(len(columns)), "weights"),),
        step=onset,
    )


def _row_after(run: Run, measured: NDArray[np.int64], was: NDArray[np.bool_]) -> int:
    """The first step of the row after the last in which it `was` so."""
    return int(run.steps.first[measured[int(np.flatnonzero(was)[-1]) + 1]])


def _alike(columns: list[int]) -> str:
    return "it alone" if len(columns) == 1 else f"{len(columns)} weights alike"
