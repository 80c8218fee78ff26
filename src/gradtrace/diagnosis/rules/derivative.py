"""Does a custom function hand back the derivative of what it computes?

A gradient that is nearly the opposite of the derivative leads uphill: each step of what lies before the function makes
the loss larger. Any other that is off is told, and may be meant so: a feedback of random weights, which by chance makes
an obtuse angle with the derivative half of the time, a softened step.
So may the exact opposite for one term of several be, a loss of its own that an adversary is to make large.
What is a custom function for its backward's sake is not held against its forward at all (`measure.derivative`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import place
from gradtrace.diagnosis.thresholds import OPPOSITE_COSINE, WRONG_DERIVATIVE
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom
from gradtrace.remedies.catalogue import OWN_DERIVATIVE
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene, View
    from gradtrace.records.derivative import DerivativeStats
    from gradtrace.records.trace import Op


def judge(scene: Scene) -> list[Finding]:
    """One finding for each custom function, of the operand whose gradient is worst."""
    worst: dict[str, tuple[DerivativeStats, View]] = {}
    for view in scene.views:
        for one in view.trace.derivatives:
            known = worst.get(one.function)
            if one.off > WRONG_DERIVATIVE and (known is None or one.cosine < known[0].cosine):
                worst[one.function] = one, view
    return [_finding(one, view) for one, view in worst.values()]


def _finding(one: DerivativeStats, view: View) -> Finding:
    own = [op for op in view.trace.ops if base_name(op.name) == one.function]
    is_uphill = one.cosine < OPPOSITE_COSINE
    if is_uphill and _is_reversed_term(one, own, view):
        is_uphill, told = False, "it is the opposite, and that may be meant so: this term of the loss is made large"
    elif is_uphill:
        told = "it leads uphill, and the steps of what lies before it make the loss larger"
    else:
        told = "that may be meant so"
    return Finding(
        symptom=Symptom.DISCONNECTED,
        cause=Cause.DETACHED_GRAPH,
        where=tuple(dict.fromkeys(place(op, view.paths) for op in own)) or ("",),
        severity=Severity.CRITICAL if is_uphill else Severity.INFO,
        message=f"What the backward of {one.function} ({one.source}) returns for `{one.operand}` is not the derivative "
        f"of its forward: along it, the forward's value changes by {one.slope:.2g} times what it says, and it is off "
        f"by {one.off:.2g} times the derivative's size; {told}.",
        evidence=(
            Evidence("change of the forward along the gradient, over what that says", one.slope),
            Evidence("distance from the derivative, over its size", one.off),
        ),
        remedies=(OWN_DERIVATIVE,),
        source=one.source,
    )


def _is_reversed_term(one: DerivativeStats, own: list[Op], view: View) -> bool:
    """Whether a number is turned round exactly, beside which the loss has terms that come through layers too."""
    exact = max(abs(one.slope + 1.0), abs(one.cosine + 1.0)) <= WRONG_DERIVATIVE**2
    if not exact or not all(op.received is not None and op.received.numel == 1 for op in own):
        return False
    past, ops = {op.index for op in own}, view.trace.ops
    stack = [op.index for op in ops if not view.paths.arrivals[op.index] and op.index not in past]
    while stack:
        op = ops[stack.pop()]
        if op.weights and op.factor is Factor.WEIGHT:  # a penalty takes the weights themselves
            return True
        new = {t[0] for t in op.targets if t is not None} - past
        past |= new
        stack += new
    return False
