"""Are the steps too large for the weights, or left out?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.layer import owner
from gradtrace.diagnosis.thresholds import SKIPPED_FRAC, SKIPPED_STEPS, UPDATE_REPLACES
from gradtrace.diagnosis.timeline.before import matrices, ratios_of_matrices
from gradtrace.diagnosis.timeline.losses import last_rows
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import EventKind
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for

if TYPE_CHECKING:
    from gradtrace.records.run import Run


def judge(run: Run) -> list[Finding]:
    """Weights that are replaced step by step, and steps that a scaler leaves out again and again."""
    found = [_replaced(run), _skipped(run)]
    return [finding for finding in found if finding is not None]


def _replaced(run: Run) -> Finding | None:
    """Updates as large as the weights, again and again; the first ones of weights that start at zero do not count."""
    columns, low = matrices(run), ratios_of_matrices(run, largest=False)
    measured = np.flatnonzero(np.isfinite(low).any(axis=1)) if columns else np.empty(0, np.int64)
    width = last_rows(len(measured))
    if len(measured) < 2 * width:
        return None
    latest = low[measured[-width:]]
    stuck = np.flatnonzero((latest > UPDATE_REPLACES).all(axis=0))
    if not len(stuck):
        return None
    worst = int(stuck[np.argmax(latest[-1, stuck])])
    below = np.flatnonzero(~(low[measured, worst] > UPDATE_REPLACES))
    onset = int(run.steps.first[measured[below[-1] + 1 if len(below) else 0]])
    ratio = float(low[measured[-1], worst])
    earlier = low[measured[: below[-1] + 1], worst] if len(below) else np.empty(0)
    came = f" Before, a step changed it by {np.nanmedian(earlier):.2g} times." if np.isfinite(earlier).any() else ""
    names = [run.header.parameters[columns[i]].name for i in stuck]
    return Finding(
        symptom=Symptom.EXPLODING,
        cause=Cause.LEARNING_RATE,
        where=tuple(dict.fromkeys(owner(name) for name in names)),
        severity=Severity.WARNING,
        message=f"Since step {onset} every measured step changes {run.header.parameters[columns[worst]].name} by more "
        f"than its own size ({ratio:.2g} times, {len(names)} weights alike): the steps are too large.{came}",
        evidence=(Evidence("update to weight ratio", ratio),),
        remedies=remedies_for(Symptom.EXPLODING, Cause.LEARNING_RATE),
        step=onset,
    )


def _skipped(run: Run) -> Finding | None:
    """A scaler leaves out one step in 2000 in a healthy run; most of them only where no scale would do."""
    left_out = [event.step for event in run.events if event.kind is EventKind.SKIPPED]
    num_steps = run.steps.num_steps
    if len(left_out) < SKIPPED_STEPS or len(left_out) < SKIPPED_FRAC * num_steps:
        return None
    return Finding(
        symptom=Symptom.NONFINITE,
        cause=Cause.NUMERIC_FORMAT,
        where=("",),
        severity=Severity.WARNING,
        message=f"{len(left_out)} of {num_steps} steps were left out since step {left_out[0]} because gradients "
        "overflow: no loss scale helps.",
        evidence=(Evidence("steps left out", float(len(left_out)), "steps"),),
        remedies=remedies_for(Symptom.NONFINITE, Cause.NUMERIC_FORMAT),
        step=left_out[0],
    )
