"""Does the loss ask for a second derivative that the activations do not have?

The residual of a differential equation holds u'', a network's second derivative by its input:

    u = W a(z),    u'' = W diag(a''(z)) (z')^2 + W diag(a'(z)) z''

which is zero, whatever the weights are, where a'' is zero in every layer: ReLU is made of straight lines.
Such a term of the loss moves nothing, while others (boundary values) go on, so that the loss comes down to that floor
(Raissi et al. 2019 take tanh for it). A penalty on the first derivative holds a' and not a'', and learns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import places
from gradtrace.diagnosis.naming import told_op
from gradtrace.diagnosis.rules.disconnected import swallows
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.of_losses import SMOOTH
from gradtrace.tape.kinds import is_derivative_of_activation

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene, View
    from gradtrace.records.trace import Op


def judge(scene: Scene) -> list[Finding]:
    """One finding for all activations whose second derivative ends the gradient in every batch."""
    ends = [next((op for op in _bends(view) if _ends(op, view)), None) for view in scene.views]
    if not ends or ends[0] is None or None in ends:
        return []
    view, ended = scene.views[0], ends[0]
    found = {op.index: op for one in _bends(view) if (op := _straight(one, view)) is not None}
    straight = sorted(found.values(), key=lambda op: op.sequence)
    first = told_op(straight[0], view.trace, view.paths)
    return [
        Finding(
            symptom=Symptom.VANISHING,
            cause=Cause.ACTIVATION_DERIVATIVE,
            where=places(straight, view.paths),
            severity=Severity.CRITICAL,
            message=f"The loss takes a second derivative of the network by its input ({ended.site.source}), and that "
            f"of {first} is zero wherever it exists: so is the network's, whatever the weights are, and no gradient "
            "comes through it.",
            evidence=(Evidence("activations of straight lines", len(straight), "ops"),),
            remedies=(SMOOTH,),
            source=straight[0].site.source,
        )
    ]


def _bends(view: View) -> list[Op]:
    """Ops that differentiate an activation's derivative."""
    return [op for op in view.trace.ops if is_derivative_of_activation(op.name)]


def _ends(op: Op, view: View) -> bool:
    """Whether all that arrives is lost, and was of no use to the weights before: what they are applied to is zero.

    The first derivative of a network that ends in a ReLU is lost there too, behind weights that have learnt from it.
    """
    if not swallows(op) or _straight(op, view) is None:
        return False
    arrivals = view.paths.arrivals[op.index]
    while len(arrivals) == 1:
        source, slot = view.trace.ops[arrivals[0][0]], arrivals[0][1]
        beside = [stats.norm for i, stats in enumerate(source.passed) if i != slot and stats is not None]
        if any(beside):
            return False
        if source.weights and beside:
            return True
        arrivals = view.paths.arrivals[source.index]
    return False


def _straight(op: Op, view: View) -> Op | None:
    """The activation whose a'' is zero where gradient arrives."""
    if op.received is None or not op.received.norm > 0.0 or not op.targets or op.targets[-1] is None:
        return None
    stats = op.passed[-1]
    return view.trace.ops[op.targets[-1][0]] if stats is not None and stats.norm == 0.0 else None
