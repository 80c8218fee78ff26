"""Do the data come to the network at all?

    dL/dW = sum over examples of  g x^T

is zero where x is, whatever g is. Data may be silenced before the first weight sees them, and then no op on the tape
does it: basis functions on a grid that the data lie outside of, a ReLU of negative data, a mask, integers divided.

Nor do they come where all examples are one and the same by then. Outputs are alike that are made of the same, whatever
the weights are, and of alike outputs the best is the constant: no training comes below its loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.diagnosis.besides import is_dropout
from gradtrace.diagnosis.data_scale import is_first, scale_of
from gradtrace.diagnosis.layer import is_layer, num_units, places
from gradtrace.diagnosis.naming import told_op
from gradtrace.diagnosis.objectives import has_learnt, objectives
from gradtrace.diagnosis.rules.pairing import last_layers
from gradtrace.diagnosis.thresholds import HALF_OF_THE_DIGITS, MIN_SAMPLES
from gradtrace.diagnosis.wording import ROWS_ALIKE
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom
from gradtrace.remedies.catalogue import LOOK_AT_BATCH, remedies_for

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene, View
    from gradtrace.records.trace import Op


def judge(scene: Scene) -> list[Finding]:
    """One finding where, on each batch, every layer that data come to is fed with zeros alone, or with one example."""
    return _zeros(scene) or _one_example(scene)


def _zeros(scene: Scene) -> list[Finding]:
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


def _one_example(scene: Scene) -> list[Finding]:
    """Where targets differ and the examples do not; a loss that has come below a constant's proves the contrary."""
    layers = [_alike(view) for view in scene.views]
    if not layers or not all(layers):
        return []
    view, ops = scene.views[0], layers[0]
    num, known = _num_alike(ops[0], view), objectives(view)[0]
    return [
        Finding(
            symptom=Symptom.DISCONNECTED,
            cause=Cause.INPUT_SCALE,
            where=places(ops, view.paths),
            severity=Severity.CRITICAL,
            message=f"Nothing of the data comes to the network: all of the {num} rows that "
            f"{told_op(ops[0], view.trace, view.paths)} is fed with are one and the same, entry by entry, on each "
            f"batch, and their targets differ. No weights bring the loss below the {known.constant:.3g} that the best "
            "constant gets. Look at a batch where it comes in: a conversion to integers, a division of them, a clamp, "
            "a mask or an index may have made all of it equal.",
            evidence=(Evidence(ROWS_ALIKE, num, "rows"),),
            remedies=(LOOK_AT_BATCH,),
            source=ops[0].site.source,
        )
    ]


def _alike(view: View) -> list[Op]:
    """The layers that data come to, if the examples are one and the same to all of them; [] if not, or if it may be so.

    May be so: for few examples, and where each row has not a target of its own.
    """
    firsts = [op for op in view.trace.ops if is_layer(op) and is_first(op, view)]
    num = _num_targets(view)
    if num < MIN_SAMPLES or has_learnt(view) or any(_num_alike(op, view) != num for op in firsts):
        return []
    return firsts if _is_told_apart_by_nothing(view) or not _comes_in_elsewhere(firsts, view) else []


def _num_alike(op: Op, view: View) -> int:
    scale = scale_of(op, view.paths)
    return scale.num_alike if scale is not None and scale.input_rms else 0  # a state that starts at zero is no data


def _num_targets(view: View) -> int:
    """Rows of a single, known loss whose targets differ from row to row; 0 where that is not known."""
    known = [op for op in view.trace.ops if op.objective is not None]
    if len(known) != 1 or len(objectives(view)) != 1:
        return 0
    shape = next((stats.shape for stats in known[0].passed if stats is not None), ())
    one = known[0].objective
    name = (one.function if one is not None else "") or known[0].function
    if name in ("cross_entropy", "nll_loss") and (name != known[0].function or len(shape) != 2):
        return 0  # the entropy is one over places, too
    return shape[0] if shape else 0


def _is_told_apart_by_nothing(view: View) -> bool:
    """Whether nothing but rounding differs between the examples of what the last layers take in."""
    scales = [scale_of(op, view.paths) for op in last_layers(view)]
    return bool(scales) and all(s is not None and s.differing <= HALF_OF_THE_DIGITS for s in scales)


def _comes_in_elsewhere(firsts: list[Op], view: View) -> bool:
    """Whether some op takes in a number that nothing learns, beside one that something does (a factor may be one)."""
    others = (op for op in view.trace.ops if op not in firsts and op.factor is not Factor.LOSS and not is_dropout(op))
    return any(None in op.targets and any(target is not None for target in op.targets) for op in others)


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
