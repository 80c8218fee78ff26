"""Does the gradient reach the early time steps of a recurrent module's input?

Judged on what nn.RNN, nn.LSTM and nn.GRU pass to their input, step by step, so that a fused recurrence is seen too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.diagnosis.profile import log10_ratio
from gradtrace.diagnosis.thresholds import CLEAR_DECADES, HEALTHY_DECADES, SEQUENCE_ENDS
from gradtrace.diagnosis.wording import decades, times
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene
    from gradtrace.records.trace import Op


def judge(scene: Scene) -> list[Finding]:
    """The worst recurrent module, in the mildest batch."""
    worst = []
    for trace in scene.traces:
        ops = [(slope(op), op) for op in trace.ops if len(op.time_norms) > 1]
        if not ops:
            return []
        worst.append(max(ops, key=lambda pair: abs(pair[0])))
    if not worst:
        return []
    extent, op = min(worst, key=lambda pair: abs(pair[0]))
    if not abs(extent) >= HEALTHY_DECADES:
        return []
    lost = extent < 0
    cause = Cause.RECURRENT_CONTRACTION if lost else Cause.RECURRENT_EXPANSION
    symptom = Symptom.VANISHING if lost else Symptom.EXPLODING
    num_steps = len(op.time_norms)
    verb = "shrinks" if lost else "grows"
    return [
        Finding(
            symptom=symptom,
            cause=cause,
            where=(op.site.module or "",),
            severity=Severity.CRITICAL if abs(extent) >= CLEAR_DECADES else Severity.WARNING,
            message=f"Through time the loss gradient {verb} {times(abs(extent))} from the last to the first of "
            f"{num_steps} steps of {op.site.module or 'the model'} ({decades(abs(extent) / num_steps)} per step).",
            evidence=(
                Evidence("early against late steps", extent, "decades"),
                Evidence("sequence length", num_steps, "steps"),
            ),
            remedies=remedies_for(symptom, cause),
            source=op.site.source,
        )
    ]


def slope(op: Op) -> float:
    """log10 of the early steps' gradient over the late ones' (RMS of a tenth of the sequence at either end).

    A bidirectional module passes the larger of its two ends on at both, and is healthy by this measure.
    """
    norms = op.time_norms
    width = max(1, len(norms) // SEQUENCE_ENDS)
    early, late = (sum(x * x for x in part) ** 0.5 for part in (norms[:width], norms[-width:]))
    ratio = log10_ratio(early, late)
    return 0.0 if ratio != ratio else ratio
