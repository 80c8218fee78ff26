"""Hidden units that are copies of one another: whatever the width, the layer learns as one unit would.

What would part two units is the difference of their gradients, and it is zero: to the loss a constant weight is one
number. The scale that the theory speaks of, the spread of the weights about their mean, is zero as well.

Healthy weights with equal rows are not told: their gradients differ (a branch or a head at zero, LoRA's B), they get
none yet (a layer behind a head at zero), or their units are outputs, which the loss tells apart or means to be equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import num_units, places
from gradtrace.diagnosis.naming import told_op
from gradtrace.diagnosis.wording import COPIES
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom
from gradtrace.remedies.catalogue import DRAWN_AT_RANDOM

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene


def judge(scene: Scene) -> list[Finding]:
    """One finding: the earliest layer, and how many more."""
    if not scene.views or not scene.exhibit.copies:
        return []
    view, copies = scene.views[0], set(scene.exhibit.copies)
    layers = [
        op
        for op in view.trace.ops
        if op.factor is Factor.WEIGHT
        and copies & set(op.weights)
        and view.paths.depths[op.index] > 0
        and op.received is not None
    ]
    if not layers:
        return []
    layers.sort(key=lambda op: op.sequence)
    first, where = layers[0], places(layers, view.paths)
    units = num_units(first)
    others = f" So are those of {', '.join(where[1:4])}{' and more' if len(where) > 4 else ''}." if where[1:] else ""
    return [
        Finding(
            symptom=Symptom.VANISHING,
            cause=Cause.SMALL_WEIGHTS,
            where=where,
            severity=Severity.CRITICAL,
            message=f"The {units} units of {told_op(first, view.trace, view.paths)} are copies of one another: equal "
            "weights, bit for bit, with equal gradients. What would part them gets no gradient, so no step ever does, "
            f"and the layer learns as one unit would.{others}",
            evidence=(Evidence(COPIES, units, "units"), Evidence("layers of such units", len(where), "layers")),
            remedies=(DRAWN_AT_RANDOM,),
            source=first.site.source,
        )
    ]
