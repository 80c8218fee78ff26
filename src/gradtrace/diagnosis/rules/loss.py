"""Is the loss large, and yet flat in the network's output? Or is it given something else than it expects?

The elasticity sqrt(N) |dL/dy| max(1, rms(y)) / |L| says by what fraction the loss changes when the output moves by its
own scale; the N terms of a mean (examples, places, entries) share the gradient, hence the root. Behind a squashing
function the scale is its `SWING` at most. A converged network has a small loss along with its small gradient, and an
elasticity of order one; so a flat loss also needs a witness: an op between the loss and the last layer that is
saturated or passes nothing; and where it is known what the best constant output gets, the loss is no better than that.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from gradtrace.diagnosis.attribution import HALF_FLAT
from gradtrace.diagnosis.data_scale import input_rms, large_inputs, scale_of
from gradtrace.diagnosis.gate import is_output, traps
from gradtrace.diagnosis.layer import layer_below, places
from gradtrace.diagnosis.naming import function_of, told_op
from gradtrace.diagnosis.objectives import has_learnt, num_terms, objectives
from gradtrace.diagnosis.rules.cancelled import cancelled
from gradtrace.diagnosis.rules.pairing import beyond, bounded_logits, last_layers, pairing
from gradtrace.diagnosis.rules.plateau import uncompensated
from gradtrace.diagnosis.thresholds import (
    EPSILON,
    FALLEN_FACTOR,
    FLAT_ELASTICITY,
    FOLLOWED_STEPS,
    ROUNDING,
    SATURATED_MAJORITY,
    SWING,
    TRAPPED_FRAC,
)
from gradtrace.diagnosis.wording import percent
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom
from gradtrace.remedies.catalogue import of_flat, remedies_for
from gradtrace.remedies.of_losses import FOR_CLASSES
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene, View
    from gradtrace.records.trace import Op, Trace

ELASTICITY, OF_CONSTANT = "elasticity of the loss", "loss of the best constant"
"""Names of evidence; against the second a later loss tells whether the data is learnt."""


def judge(scene: Scene) -> list[Finding]:
    """A wrong pairing is found by structure, a flat loss by numbers; one finding at most."""
    if not scene.views:
        return []
    if (alone := _alone(scene)) is not None:
        return [alone]
    for find in (pairing, cancelled, _nothing, beyond, _flat, _stuck, bounded_logits):
        findings = [find(view) for view in scene.views]
        if all(findings):
            return [finding for finding in findings[:1] if finding is not None]
    return uncompensated(scene) or _trapped(scene)


def trapped_frac(trace: Trace) -> float:
    """The largest fraction of the examples that are stuck on the flat side of one op."""
    return max((op.trapped_frac for op in traps(trace)), default=0.0)


def _trapped(scene: Scene) -> list[Finding]:
    """Examples that get no gradient although descent would lead off the flat side that they lie on.

    Others may lift them: a bias is shared by all. So it counts if steps on a copy leave half of them where they were.
    """
    least = min(trapped_frac(view.trace) for view in scene.views)
    if least < TRAPPED_FRAC or any(map(has_learnt, scene.views)):
        return []
    view, followed = scene.views[0], scene.exhibit.followed
    later = 0.0
    if followed is not None and followed.after is not None:
        later = trapped_frac(followed.after)
    elif scene.exhibit.step >= FOLLOWED_STEPS:
        later = least
    op = max(traps(view.trace), key=lambda op: op.trapped_frac)
    severity, told = Severity.INFO, "Whether the others lift them, steps tell."
    if followed is not None and later < least / 2:
        told = f"After {FOLLOWED_STEPS} steps on a copy {percent(later)} are left: the others lift them."
    elif later >= TRAPPED_FRAC:
        severity = Severity.CRITICAL if later > SATURATED_MAJORITY else Severity.WARNING
        told = f"After {FOLLOWED_STEPS} steps on a copy it is {percent(later)}." if followed is not None else ""
    return [
        Finding(
            symptom=Symptom.LOSS_SATURATED,
            cause=Cause.LOSS_FUNCTION,
            where=places([*last_layers(view)[:1], op], view.paths),
            severity=severity,
            message=f"{percent(op.trapped_frac)} of the examples get no gradient at all: "
            f"{told_op(op, view.trace, view.paths)} is flat there, though they ought to move off it. {told}".rstrip(),
            evidence=(
                Evidence("examples without gradient", op.trapped_frac, "fraction"),
                Evidence("the same after steps on a copy", later, "fraction"),
            ),
            remedies=of_flat(function_of(op)),
            source=op.site.source,
        )
    ]


def _nothing(view: View) -> Finding | None:
    """Not one parameter has a gradient other than zero, and the loss is no minimum that is known: it is not zero."""
    last = last_layers(view)
    witness = _witness(last[0], view) if last and _gets_nothing(view) and view.trace.loss != 0.0 else None
    return _unchanging(view, witness, "no parameter has a gradient at all") if witness is not None else None


def _alone(scene: Scene) -> Finding | None:
    """Softmax over a single entry (one class, or a batch of one): whatever the loss is, no gradient goes through.

    Where the loss asks for none (a reward of zero), it does not show; one batch in which it does is enough.
    """
    if not all(map(_gets_nothing, scene.views)):
        return None
    for view in scene.views:
        op = next((op for op in view.trace.ops if _chooses_of_one(op, view)), None)
        if op is not None and last_layers(view):
            why = "softmax over one entry is one, whatever comes in"
            return replace(_unchanging(view, op, why), remedies=(FOR_CLASSES,))
    return None


def _gets_nothing(view: View) -> bool:
    """Whether gradients arrive at parameters, and all of them are exactly zero."""
    gradients = [p.gradient for p in view.trace.parameters if p.gradient is not None]
    return bool(gradients) and not any(gradient.norm > 0.0 for gradient in gradients)


def _unchanging(view: View, witness: Op, why: str) -> Finding:
    told = f"The loss is {view.trace.loss:.4g}, and nothing changes it: {why}."
    return _flat_finding(view, last_layers(view)[0], witness, told, Evidence("gradient", 0.0))


def _chooses_of_one(op: Op, view: View) -> bool:
    """Whether it is a softmax at the output that normalises over one entry: it receives a gradient and passes none.

    Of several classes it passes as little only where logits lie so far apart that all but one round to zero.
    """
    if base_name(op.name) not in ("LogSoftmax", "Softmax") or view.paths.depths[op.index] or op.received is None:
        return False
    shape = op.received.shape
    if len(shape) < 2 or 1 not in shape or not _passes_nothing(op):
        return False
    below = layer_below(op, view.paths)
    scale = scale_of(below, view.paths) if below is not None else None
    apart = -math.log(EPSILON.get(op.received.dtype, 1.0) or 1.0)
    return 1 in (shape[1], shape[-1]) or (
        scale is not None and 2.0 * scale.output_rms * math.sqrt(op.received.numel) < apart
    )


def _flat_finding(view: View, op: Op, witness: Op, message: str, *evidence: Evidence) -> Finding:
    norm = op.received.norm if op.received is not None else 0.0
    symptom, cause, why = Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION, ""
    if (size := _pushed_by_inputs(witness, view)) > 0.0:
        symptom, cause = Symptom.SATURATED, Cause.INPUT_SCALE
        why = f" The input has a root mean square of {size:.3g}: at 1 its pre-activations would not lie there."
    return Finding(
        symptom=symptom,
        cause=cause,
        where=places([op, witness], view.paths),
        severity=Severity.CRITICAL,
        message=f"{message} It is flat at {told_op(witness, view.trace, view.paths)}.{why}",
        evidence=(
            *evidence,
            Evidence("loss", view.trace.loss),
            Evidence("gradient norm at the last layer", norm),
        ),
        remedies=of_flat(function_of(witness)) if cause is Cause.LOSS_FUNCTION else remedies_for(symptom, cause),
        source=witness.site.source,
    )


def _pushed_by_inputs(witness: Op, view: View) -> float:
    """The input's RMS where it alone puts a squashing output on its flat part; else 0.

    Layers in a row pass a scale on as it is, or less of it: of unit inputs the pre-activations are within the swing.
    """
    inputs = [input_rms(op, view) for op in large_inputs(view)]
    a = witness.activation
    if not inputs or a is None or a.function in HALF_FLAT or not math.isfinite(a.preactivation_mean):
        return 0.0
    size = math.hypot(a.preactivation_mean, a.preactivation_std)
    return max(inputs) if SWING < size <= SWING * max(inputs) else 0.0


def _flat(view: View) -> Finding | None:
    last = last_layers(view)
    loss = abs(view.trace.loss)
    if not last or loss == 0.0 or has_learnt(view):
        return None
    op = max(last, key=lambda op: op.received.norm if op.received is not None else 0.0)
    assert op.received is not None
    witness = _witness(op, view)
    scale = max(1.0, op.forward.output_rms if op.forward is not None else 1.0)
    if witness is not None and witness.activation is not None:
        scale = min(scale, SWING)
    elasticity = math.sqrt(num_terms(view, op.received.numel)) * op.received.norm * scale / loss
    if elasticity >= FLAT_ELASTICITY or witness is None:
        return None
    return _flat_finding(
        view,
        op,
        witness,
        f"The loss is {view.trace.loss:.4g}, yet it hardly depends on the output at "
        f"{told_op(op, view.trace, view.paths)}: moving the output by its own scale changes the loss by "
        f"{100 * elasticity:.2g} %.",
        Evidence(ELASTICITY, elasticity),
    )


def _stuck(view: View) -> Finding | None:
    """Most examples are on the flat part of the output's non-linearity, and wrong: a few keep the whole gradient up.

    For each example alone, B |dL/dz_i| / L is the elasticity; that of the median example counts. A trained network's
    outputs are as flat, and its loss lower than a constant's.
    """
    known = objectives(view)
    if not known or has_learnt(view) or view.trace.loss == 0.0:
        return None
    for op in last_layers(view):
        squash = _witness(op, view)
        if squash is None or squash.activation is None or op.received is None or not op.received.example_norms:
            continue
        if squash.activation.saturated_frac <= SATURATED_MAJORITY or squash.activation.function in HALF_FLAT:
            continue  # (what is flat on one side by design is looked at example by example)
        per_norm = (view.trace.batch_size or 1) / abs(view.trace.loss)
        elasticity, of_most = (per_norm * norm for norm in op.received.example_norms[2:4])
        if elasticity < FLAT_ELASTICITY:
            found = _flat_finding(
                view,
                op,
                squash,
                f"{percent(squash.activation.saturated_frac)} of the outputs are saturated, and wrong: the loss is "
                f"{known[0].value:.4g}, where a constant gets {known[0].constant:.4g}, and of the median "
                f"example it changes by {100 * elasticity:.2g} % as the output moves by one.",
                Evidence("elasticity of the median example", elasticity),
                Evidence("loss of the best constant", known[0].constant),
            )
            return found if of_most < FLAT_ELASTICITY else replace(found, severity=Severity.WARNING)
    return None


def of_constant(view: View) -> tuple[Evidence, ...]:
    """What the loss would be for the best constant output, where one known loss function makes it up.

    It may be called more than once, as for each step of a sequence: all calls are taken to count alike.
    """
    known = objectives(view)
    functions = {one.function for one in known}
    value, constant = math.fsum(one.value for one in known), math.fsum(one.constant for one in known)
    if len(functions) != 1 or not value > 0.0:
        return ()
    return (Evidence(OF_CONSTANT, constant * view.trace.loss / value),)


def learnt_without(view: View, what: str) -> str:
    """How far the known losses of `view` are below a constant's, in words; '' where not by half.

    What lies beyond a horizon in time is not learnt; where the data asks for none of it, nothing is missed.
    """
    known = objectives(view)
    if not known or any(one.value * FALLEN_FACTOR > one.constant for one in known):
        return ""
    worst = max(known, key=lambda one: one.value / one.constant)
    return f"This data is learnt without it: {what} is {worst.value:.3g}, where a constant gets {worst.constant:.3g}."


def _witness(layer: Op, view: View) -> Op | None:
    """An op above the last layer that is saturated, or that received a gradient and passed on none."""
    stack, seen = [source for source, _ in view.paths.arrivals[layer.index]], set[int]()
    while stack:
        index = stack.pop()
        if index in seen:
            continue
        seen.add(index)
        op = view.trace.ops[index]
        blocked = _passes_nothing(op)
        if op.factor is Factor.LOSS and op.activation is not None and op.activation.function == "relu" and blocked:
            continue  # a hinge that every sample satisfies: it adds nothing to the loss, which is then not flat here
        squashed = op.activation is not None and op.activation.saturated_frac > SATURATED_MAJORITY
        if blocked or (squashed and (op.factor is Factor.LOSS or is_output(op, view))):
            return op
        stack.extend(source for source, _ in view.paths.arrivals[index])
    return None


def _passes_nothing(op: Op) -> bool:
    """Whether an op received a gradient and passed on none, or nothing but the rounding of what cancels."""
    if op.received is None or op.received.norm == 0.0:
        return False
    passed = [stats.norm for stats in op.passed if stats is not None]
    return bool(passed) and max(passed) <= ROUNDING * EPSILON.get(op.received.dtype, 0.0) * op.received.norm
