"""Is the loss large, and yet flat in the network's output? Or is it given something else than it expects?

The elasticity sqrt(B) |dL/dy| max(1, rms(y)) / |L| says by what fraction the loss changes when the output moves by its
own scale; B examples of a mean loss share the gradient, hence the root. A converged network has a small loss along with
its small gradient, and an elasticity of order one; so a flat loss also needs a witness: an op between the loss and the
last layer that is saturated or passes nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.naming import told_op
from gradtrace.diagnosis.profile import is_layer, place
from gradtrace.diagnosis.rules.units import is_output
from gradtrace.diagnosis.thresholds import FLAT_ELASTICITY, SATURATED_MAJORITY
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene, View
    from gradtrace.records.trace import Op

_EXPECTS_LOGITS = {"BinaryCrossEntropyWithLogits": "Sigmoid", "LogSoftmax": "Softmax"}
"""A loss that squashes by itself, and the squashing that must not come before it."""


def judge(scene: Scene) -> list[Finding]:
    """A wrong pairing is found by structure, a flat loss by numbers; one finding at most."""
    if not scene.views:
        return []
    for find in (_pairing, _flat):
        findings = [find(view) for view in scene.views]
        if all(findings):
            return [finding for finding in findings[:1] if finding is not None]
    return []


def _pairing(view: View) -> Finding | None:
    for op in view.trace.ops:
        kind = base_name(op.name)
        if op.factor is not Factor.LOSS or (kind not in _EXPECTS_LOGITS and kind not in ("NllLoss", "NllLossNd")):
            continue
        below = _through_views(op, view)
        if below is None:
            continue
        fed, told = base_name(below.name), told_op(below, view.trace, view.paths)
        if kind in _EXPECTS_LOGITS and fed.removeprefix("Safe") == _EXPECTS_LOGITS[kind]:
            name = "cross_entropy" if kind == "LogSoftmax" else "binary_cross_entropy_with_logits"
            return _mismatch(
                view,
                below,
                f"{name} applies its own {fed.lower()}, but the output at {told} went through {fed.lower()} "
                "already: squashed twice, the loss cannot come near zero and its gradient is throttled.",
            )
        if kind.startswith("NllLoss") and (below.weights or fed in ("Softmax", "Relu", "Sigmoid")):
            return _mismatch(
                view,
                below,
                f"nll_loss expects log-probabilities, but it is given the output of {told}: the "
                "loss is then linear in it and knows no minimum.",
            )
    return None


def _mismatch(view: View, op: Op, message: str) -> Finding:
    return Finding(
        symptom=Symptom.LOSS_SATURATED,
        cause=Cause.LOSS_FUNCTION,
        where=(place(op, view.paths),),
        severity=Severity.WARNING,
        message=message,
        remedies=remedies_for(Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION),
        source=op.site.source,
    )


def _through_views(op: Op, view: View) -> Op | None:
    for _ in range(8):
        ways = [t[0] for t in op.targets if t is not None]
        if len(ways) != 1:
            return None
        op = view.trace.ops[ways[0]]
        if op.factor is not Factor.RESHAPE and not (op.factor is Factor.LOSS and _moves_only(op)):
            return op
    return None


def _moves_only(op: Op) -> bool:
    from gradtrace.tape.kinds import factor_of

    return factor_of(op.name) is Factor.RESHAPE


def _flat(view: View) -> Finding | None:
    last = _last_layers(view)
    loss = abs(view.trace.loss)
    if not last or loss == 0.0:
        return None
    op = max(last, key=lambda op: op.received.norm if op.received is not None else 0.0)
    assert op.received is not None
    batch = max(view.trace.batch_size or 1, 1)
    scale = max(1.0, op.forward.output_rms if op.forward is not None else 1.0)
    elasticity = math.sqrt(batch) * op.received.norm * scale / loss
    witness = _witness(op, view)
    if elasticity >= FLAT_ELASTICITY or witness is None:
        return None
    return Finding(
        symptom=Symptom.LOSS_SATURATED,
        cause=Cause.LOSS_FUNCTION,
        where=(place(op, view.paths), place(witness, view.paths)),
        severity=Severity.CRITICAL,
        message=f"The loss is {view.trace.loss:.4g}, yet it hardly depends on the output at "
        f"{told_op(op, view.trace, view.paths)}: moving the output by its own scale changes the "
        f"loss by {100 * elasticity:.2g} %. It is flat at "
        f"{told_op(witness, view.trace, view.paths)}.",
        evidence=(
            Evidence("elasticity of the loss", elasticity),
            Evidence("loss", view.trace.loss),
            Evidence("gradient norm at the last layer", op.received.norm),
        ),
        remedies=remedies_for(Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION),
        source=witness.site.source,
    )


def _last_layers(view: View) -> list[Op]:
    """Layers that no other layer lies above."""
    above = [False] * len(view.trace.ops)
    found = []
    for op in view.trace.ops:
        if is_layer(op) and not above[op.index]:
            found.append(op)
        reaches = above[op.index] or is_layer(op)
        for target in op.targets:
            if target is not None and reaches:
                above[target[0]] = True
    return found


def _witness(layer: Op, view: View) -> Op | None:
    """An op above the last layer that is saturated, or that received a gradient and passed on none."""
    stack, seen = [source for source, _ in view.paths.arrivals[layer.index]], set[int]()
    while stack:
        index = stack.pop()
        if index in seen:
            continue
        seen.add(index)
        op = view.trace.ops[index]
        passed = [stats.norm for stats in op.passed if stats is not None]
        blocked = op.received is not None and op.received.norm > 0.0 and bool(passed) and not any(passed)
        if op.factor is Factor.LOSS and op.activation is not None and op.activation.function == "relu" and blocked:
            continue  # a hinge that every sample satisfies: it adds nothing to the loss, which is then not flat here
        squashed = op.activation is not None and op.activation.saturated_frac > SATURATED_MAJORITY
        if blocked or (squashed and (op.factor is Factor.LOSS or is_output(op, view))):
            return op
        stack.extend(source for source, _ in view.paths.arrivals[index])
    return None
