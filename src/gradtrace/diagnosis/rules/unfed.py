"""Do the data come to the network at all?

    dL/dW = sum over examples of  g x^T

is zero where x is, whatever g is. Data may be silenced before the first weight sees them, and then no op on the tape
does it: basis functions on a grid that the data lie outside of, a ReLU of negative data, a mask, integers divided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.diagnosis.data_scale import is_first, scale_of
from gradtrace.diagnosis.layer import is_layer, num_units, places
from gradtrace.diagnosis.naming import told_op
from gradtrace.diagnosis.thresholds import MIN_SAMPLES
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene, View
    from gradtrace.records.trace import Op


def judge(scene: Scene) -> list[Finding]:
    """One finding where, on each batch, every layer that data come to is fed with zeros alone."""
    layers = [_unfed(view) for view in scene.views]
    if not layers or not all(layers):
        return []
    view, ops = scene.views[0], layers[0]
    return [
        Finding(
            symptom=Symptom.DISCONNECTED,
            cause=Cause.INPUT_SCALE,
            where=places(ops, view.paths),
            severity=Severity.WARNING,
            message=f"Nothing of the data comes to the network: {told_op(ops[0], view.trace, view.paths)} is fed with "
            "zeros alone, on each batch, and the gradient of its weights is zero whatever comes back to it.",
            evidence=(Evidence("layers fed with zeros alone", len(ops), "layers"),),
            remedies=remedies_for(Symptom.DISCONNECTED, Cause.INPUT_SCALE),
            source=ops[0].site.source,
        )
    ]


def _unfed(view: View) -> list[Op]:
    """The layers that data come to, if all of them are known to be fed with zeros; [] if not."""
    firsts = [op for op in view.trace.ops if is_layer(op) and is_first(op, view)]
    scales = [scale_of(op, view.paths) for op in firsts]
    if any("Embedding" in op.name for op in firsts) or any(scale is None or scale.input_rms for scale in scales):
        return []
    if any(op.received is not None and op.received.numel < MIN_SAMPLES * num_units(op) for op in firsts):
        return []  # zeros are the data, as one of the corners of a square is
    names = {name for op in firsts for name in op.weights}
    maps = [p for p in view.trace.parameters if p.name in names and len(p.shape) > 1]
    learns = any(p.gradient is not None and p.gradient.norm > 0.0 for p in maps)  # a state that starts at zero, say
    return [] if learns else firsts
