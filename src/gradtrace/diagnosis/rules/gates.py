"""Are the gates of a fused recurrence stuck?

`nn.LSTM` on most devices is one op: what its gates are like inside is not on the tape. But the gradient reaches its
weights through the gates' pre-activations r alone, each weighted with a derivative that is next to nothing where a gate
is stuck, open or closed:

    dL/db = sum L'(r)        dL/dW_hh = sum L'(r) h^T, |h| <= 1        dL/dW_ih = sum L'(r) x^T

So each of the three, the last divided by the inputs' scale, is held against the gradient that arrived. Sums over
examples also cancel at a minimum: it counts where a known loss is no better than that of the best constant.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.data_scale import input_rms
from gradtrace.diagnosis.layer import place
from gradtrace.diagnosis.naming import told_op
from gradtrace.diagnosis.objectives import has_learnt, objectives
from gradtrace.diagnosis.thresholds import CLEAR_DECADES, INPUT_RMS
from gradtrace.diagnosis.wording import times
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene, View
    from gradtrace.records.trace import Op


def judge(scene: Scene) -> list[Finding]:
    """The recurrence that passes least to its weights, on every batch."""
    if not scene.views or any(not objectives(view) or has_learnt(view) for view in scene.views):
        return []
    worst = [min((op for op in view.trace.ops if _is_fused(op)), key=lambda op: _passed(op, view), default=None)
             for view in scene.views]  # fmt: skip
    passed = max(1.0 if op is None else _passed(op, view) for op, view in zip(worst, scene.views, strict=True))
    if worst[0] is None or passed > 10.0**-CLEAR_DECADES:
        return []
    return [_finding(worst[0], -math.log10(passed) if passed > 0.0 else math.inf, scene.views[0])]


def _is_fused(op: Op) -> bool:
    """Whether it holds the weights of inputs and of states at once."""
    return all(any(part in name for name in op.weights) for part in ("weight_ih", "weight_hh"))


def _passed(op: Op, view: View) -> float:
    """What its weights get, at the most, of what arrived; 1 where nothing arrived."""
    if op.received is None or op.received.norm == 0.0:
        return 1.0
    inputs = max(input_rms(op, view), 1.0)
    gradients = [
        p.gradient.norm / (inputs if "weight_ih" in p.name else 1.0)
        for p in view.trace.parameters
        if p.name in op.weights and p.gradient is not None
    ]
    return max(gradients, default=op.received.norm) / op.received.norm


def _finding(op: Op, lost: float, view: View) -> Finding:
    size = input_rms(op, view)
    cause, why = Cause.SATURATED_PREACTIVATION, ""
    if size >= INPUT_RMS:
        cause = Cause.INPUT_SCALE
        why = f" The input has a root mean square of {size:.3g}, where about 1 is expected."
    return Finding(
        symptom=Symptom.SATURATED,
        cause=cause,
        where=(place(op, view.paths),),
        severity=Severity.CRITICAL,
        message=f"The gates of {told_op(op, view.trace, view.paths)} are stuck, open or closed: the gradient that "
        f"arrives there shrinks {times(lost)} on its way to their weights.{why}",
        evidence=(Evidence("what the weights get of it", -lost, "decades"), Evidence("rms of the inputs", size)),
        remedies=remedies_for(Symptom.SATURATED, cause),
        source=op.site.source,
    )
