"""Are the gradients cleared between the steps?

Where they are not, step n applies the sum of all gradients g_1 + ... + g_n: heavy-ball momentum (Polyak 1964) with a
coefficient of 1, which forgets nothing, so that the steps grow and the loss swings or runs away.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.thresholds import UNCLEARED_STEPS
from gradtrace.diagnosis.timeline.losses import last_rows
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import EventKind, Scalar
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import CLEAR_GRADIENTS

if TYPE_CHECKING:
    from gradtrace.records.run import Run


def judge(run: Run) -> list[Finding]:
    """Seen at every step since the first one that was looked at: exact, for a cleared gradient is None or zero."""
    uncleared = {event.step for event in run.events if event.kind is EventKind.UNCLEARED}
    if len(uncleared) < UNCLEARED_STEPS:
        return []
    onset = min(uncleared)
    # what is traced again to explain a NaN is no first pass of a step, and nobody looks then
    end = min((event.step for event in run.events if event.kind is EventKind.NONFINITE), default=math.inf)
    looked = {event.step for event in run.events if event.kind in (EventKind.SAMPLE, EventKind.CLEARED)}
    if {step for step in looked if onset <= step < end} - uncleared:
        return []
    grows = _loss_grows(run)
    told = "The loss has grown with it." if grows else "The loss has not grown yet."
    return [
        Finding(
            symptom=Symptom.EXPLODING,
            cause=Cause.LEARNING_RATE,
            where=("",),
            severity=Severity.CRITICAL if grows else Severity.WARNING,
            message=f"The gradients are never cleared: from step {onset} on, at each of the {len(uncleared)} "
            "steps that were looked at, the backward pass added to those of the steps before. Every step applies the "
            "sum of all gradients so far, and is larger than its own gradient and the learning rate make it. "
            f"{told}",
            evidence=(Evidence("steps whose gradients were not cleared", float(len(uncleared))),),
            remedies=(CLEAR_GRADIENTS,),
            step=onset,
        )
    ]


def _loss_grows(run: Run) -> bool:
    """Whether the latest losses are mostly above the first ones."""
    low, high = run.steps.scalar(Scalar.LOSS)
    known = np.isfinite(low) & np.isfinite(high)
    width = last_rows(int(known.sum()))
    return int(known.sum()) >= 2 * width and bool(np.median(low[known][-width:]) > np.median(high[known][:width]))
