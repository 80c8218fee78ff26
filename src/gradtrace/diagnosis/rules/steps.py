"""Do the steps fit? One optimizer step on a copy is weighed against the weights; a trial run shows whether it diverges.

A step larger than the weight itself replaces it. Whether the learning rate, the loss's reduction (a sum over the batch)
or the scale of inputs and targets is to blame follows from what would bring the step back: dividing by the batch, or by
the data's scale. The rate is blamed if a tenth of it would do; where that fails too, and the weights make the signal
grow, it is the weights.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

from gradtrace.diagnosis.data_scale import input_rms, is_far_off, large_inputs, scale_of, target_distance
from gradtrace.diagnosis.naming import told_op
from gradtrace.diagnosis.profile import is_layer, owner, place, rms_to_fan_in
from gradtrace.diagnosis.rules import attention, units
from gradtrace.diagnosis.rules.nonfinite import cause_of, finding_of
from gradtrace.diagnosis.rules.units import by_key, dead_layers
from gradtrace.diagnosis.scene import is_finite, make_scene
from gradtrace.diagnosis.thresholds import (
    DIVERGED_FACTOR,
    FOLLOWED_STEPS,
    INPUT_RMS,
    LARGE_WEIGHT,
    SATURATED_MAJORITY,
    SUM_FACTOR,
    TARGET_RATIO,
    UPDATE_REPLACES,
)
from gradtrace.diagnosis.wording import STEP_RATIO, percent, steps
from gradtrace.measure.path import Paths
from gradtrace.records.exhibit import Exhibit
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene, View
    from gradtrace.records.exhibit import Training, UpdateStats
    from gradtrace.records.trace import Op


def judge(scene: Scene) -> list[Finding]:
    """What the data's scale, the first step and the trial run say."""
    training = scene.exhibit.training
    if not scene.views:
        return []
    if training is None or not training.losses:
        return _targets(scene)
    findings = _broken(scene, training) + _diverged(scene, training) + _died(scene, training)
    findings += _flattened(scene, training)
    return findings or far_off(scene) or _targets(scene)


def weights_moved(training: Training) -> list[UpdateStats]:
    """The first step's change of each weight matrix, the largest ratio first.

    Vectors (biases, gains) and weights that start at zero have no scale of their own to compare with.
    """
    found = [u for u in training.updates if u.weight_norm > 0.0 and len(u.shape) > 1]
    return sorted(found, key=lambda update: -update.ratio)


def large_updates(training: Training) -> list[UpdateStats]:
    """Weights that one step replaces."""
    return [u for u in weights_moved(training) if u.ratio > UPDATE_REPLACES]


def diverged(training: Training) -> bool:
    """Whether the loss of the trial grew tenfold and stayed there (one spike that comes back is none)."""
    losses = [loss for loss in training.losses if math.isfinite(loss)]
    if not losses or max(losses[-2:]) - losses[0] <= _tenfold(training):
        return False
    # at a minimum every step raises the loss, once; a step that overshoots does so again and again
    return max(losses[-2:]) >= max(losses) or bool(large_updates(training))


def spiked(training: Training) -> bool:
    """Whether the loss grew tenfold under steps that replace the weights, and came back."""
    losses = [loss for loss in training.losses if math.isfinite(loss)]
    grew = bool(losses) and max(losses) - losses[0] > _tenfold(training)
    return grew and bool(large_updates(training)) and not diverged(training)


def _tenfold(training: Training) -> float:
    """The increase that makes the loss ten times what it was at the start."""
    return (DIVERGED_FACTOR - 1.0) * max(abs(training.losses[0]), training.usual_loss)


def _broken(scene: Scene, training: Training) -> list[Finding]:
    """The trial ended in NaN or Inf: the steps are to blame if the loss ran away first, or if they are too large."""
    if training.broke_at is None or training.after is None or not all(is_finite(t) for t in scene.exhibit.traces):
        return []
    if training.after.nonfinite is not None and training.after.nonfinite.phase == "input":
        return [finding_of(training.after, training.broke_at)]
    born = training.after.nonfinite
    ran_away = diverged(training) or bool(large_updates(training))
    cause = cause_of(born, training.after)
    if ran_away or (cause is Cause.LEARNING_RATE and born is not None):
        cause = cause_of_steps(scene, training)
    return [finding_of(training.after, training.broke_at, cause)]


def _diverged(scene: Scene, training: Training) -> list[Finding]:
    large = large_updates(training)
    grew = diverged(training)
    if not grew and not spiked(training) and not (large and training.broke_at is not None):
        return []
    cause = cause_of_steps(scene, training)
    worst = next(iter(weights_moved(training)), None)
    losses = [loss for loss in training.losses if math.isfinite(loss)]
    peak = max(losses)
    text = f"In {steps(training.num_steps)} on a copy the loss goes from {losses[0]:.4g} to {peak:.4g}"
    text += ", then to NaN or Inf. " if training.broke_at is not None else ". " if grew else " and back. "
    if worst is not None:
        text += f"The first step changes {worst.name} by {worst.ratio:.2g} times its own size. "
    evidence = [Evidence("loss before", losses[0]), Evidence("largest loss", peak)]
    if worst is not None:
        evidence.append(Evidence(STEP_RATIO, worst.ratio))
    where = _where(cause, scene, [u.name for u in large] or ([worst.name] if worst is not None else []))
    return [
        Finding(
            symptom=Symptom.EXPLODING,
            cause=cause,
            where=where,
            severity=Severity.CRITICAL if grew or training.broke_at is not None else Severity.WARNING,
            message=text + _words(cause, scene),
            evidence=tuple(evidence),
            remedies=remedies_for(Symptom.EXPLODING, cause),
            step=next((i for i, loss in enumerate(training.losses) if loss == peak), None),
        )
    ]


def _died(scene: Scene, training: Training) -> list[Finding]:
    """Layers that were alive at the start and are dead after the trial."""
    now = _dead_now(scene, training)
    if not now or training.after is None:
        return []
    op, frac = now[0]
    assert op.activation is not None
    cause = cause_of_steps(scene, training)
    paths = Paths(training.after)
    return [
        Finding(
            symptom=Symptom.DEAD_UNITS,
            cause=cause,
            where=tuple(dict.fromkeys(place(op, paths) for op, _ in now)),
            severity=Severity.CRITICAL if frac == 1.0 else Severity.WARNING,
            message=f"After {steps(training.num_steps)} on a copy {percent(frac)} of the {op.activation.num_units} "
            f"units of {told_op(op, training.after, paths)} are zero on every sample; before, they were alive. "
            f"{_words(cause, scene)}",
            evidence=(Evidence("dead units", frac, "fraction"),),
            remedies=remedies_for(Symptom.DEAD_UNITS, cause),
            source=op.site.source,
            step=training.num_steps,
        )
    ]


def _flattened(scene: Scene, training: Training) -> list[Finding]:
    """Layers, or attention, that were not saturated at the start and are after steps that replaced the weights."""
    if training.after is None or not is_finite(training.after) or not large_updates(training):
        return []
    now = _flat(make_scene(Exhibit((training.after,))))
    known = {place for finding in _flat(scene) for place in finding.where}
    cause, worst = cause_of_steps(scene, training), large_updates(training)[0]
    return [
        replace(
            finding,
            cause=cause,
            message=f"After {steps(training.num_steps)} on a copy: {finding.message} Before, it was not so; the first "
            f"step changes {worst.name} by {worst.ratio:.2g} times its own size. {_words(cause, scene)}",
            evidence=(*finding.evidence, Evidence(STEP_RATIO, worst.ratio)),
            remedies=remedies_for(finding.symptom, cause),
            step=training.num_steps,
        )
        for finding in now
        if finding.severity is not Severity.INFO and not known & set(finding.where)
    ]


def _flat(scene: Scene) -> list[Finding]:
    flat = units.saturated(scene) if scene.views else None
    return [*([flat] if flat is not None else []), *attention.judge(scene)]


def _dead_now(scene: Scene, training: Training) -> list[tuple[Op, float]]:
    if training.after is None or not is_finite(training.after):
        return []
    alive = {key: 1.0 - len(op.activation.dead_units) / max(op.activation.num_units, 1)
             for key, op in by_key(scene.traces[0]).items() if op.activation is not None}  # fmt: skip
    keys = {op.index: key for key, op in by_key(training.after).items()}
    found = dead_layers((training.after,), rare=False)  # most of what was alive, on a batch alone, is not any more
    now = [(op, frac) for op, frac in found if 1.0 - frac < SATURATED_MAJORITY * alive.get(keys[op.index], 1.0)]
    return sorted(now, key=lambda pair: (-pair[1], pair[0].sequence))


def cause_of_steps(scene: Scene, training: Training) -> Cause:
    """Data scale, reduction or learning rate: what would bring the largest step back below its weight."""
    view = scene.views[0]
    summed = scene.exhibit.summed_over
    worst = max((u.ratio for u in weights_moved(training)), default=0.0)
    adaptive = all(optimizer.adaptive for optimizer in scene.exhibit.optimizers)
    if not adaptive and (large_inputs(view) or target_distance(view) > TARGET_RATIO):
        return Cause.INPUT_SCALE
    if summed is not None and summed > SUM_FACTOR and not adaptive:
        batch = max(view.trace.batch_size or 1, 1)
        if worst / batch < UPDATE_REPLACES:
            return Cause.REDUCTION_SCALE
    if scene.exhibit.tenth is not None and fails(scene, scene.exhibit.tenth) and large_layers(view):
        return Cause.LARGE_WEIGHTS
    return Cause.LEARNING_RATE


def fails(scene: Scene, training: Training) -> bool:
    """Whether the loss of a trial runs away, or layers die in it."""
    if training.broke_at is not None or diverged(training) or spiked(training):
        return True
    return bool(training.losses) and bool(_dead_now(scene, training))


def needs_tenth(scene: Scene) -> bool:
    """Whether the verdict would be that the steps are too large."""
    return any(finding.cause is Cause.LEARNING_RATE for finding in judge(scene))


def large_layers(view: View) -> list[Op]:
    """Layers of weights twice as large as He's, where the last one's output is an order of magnitude above the data."""
    layers = [op for op in view.trace.ops if is_layer(op) and op.forward is not None and "Embedding" not in op.name]
    if not layers:
        return []
    made, given = layers[0].forward, layers[-1].forward
    if made is None or given is None or made.output_rms < INPUT_RMS * max(given.input_rms, 1.0):
        return []
    return [op for op in layers if any(size >= LARGE_WEIGHT for size in rms_to_fan_in(op, view.trace))]


def far_off(scene: Scene, where: str = " on a copy", num_steps: int | None = None) -> list[Finding]:
    """A loss far above the best constant's, by inputs or a last layer far too large, and steps do not bring it down.

    An adaptive step is as long for any gradient: outputs that are s times too large take s times as many to come down.
    Large inputs stay; a last layer is brought down in time, and what counts is whether a constant still does better.
    """
    view, followed = scene.views[0], scene.exhibit.followed
    inputs, head = large_inputs(view), _large_head(view)
    blamed = inputs[0] if inputs else head
    if followed is None or not followed.losses or blamed is None or not all(is_far_off(v) for v in scene.views):
        return []
    worst = max((op.objective for op in view.trace.ops if op.objective), key=lambda one: one.value - one.constant)
    tail = [loss for loss in followed.losses[-TAIL:] if math.isfinite(loss)]
    left = statistics.median(tail) / followed.losses[0] * worst.value if tail and followed.losses[0] else math.inf
    grave = left > TARGET_RATIO * worst.constant
    if not grave and (inputs or left <= worst.constant):
        return []
    cause = Cause.INPUT_SCALE if inputs else Cause.LARGE_WEIGHTS
    why = _words(cause, scene) if inputs else _head_words(blamed, view)
    return [
        Finding(
            symptom=Symptom.EXPLODING,
            cause=cause,
            where=_where(cause, scene, []) if inputs else (place(blamed, view.paths),),
            severity=Severity.CRITICAL if grave else Severity.WARNING,
            message=f"The loss is {worst.value:.3g}, where a constant output gets {worst.constant:.3g}, and after "
            f"{steps(num_steps or followed.num_steps)}{where} still {left:.3g}. {why}",
            evidence=(
                Evidence("loss over that of the best constant", worst.value / worst.constant),
                Evidence(f"the same after steps{where}", left / worst.constant),
            ),
            remedies=remedies_for(Symptom.EXPLODING, cause),
            source=blamed.site.source,
        )
    ]


def _large_head(view: View) -> Op | None:
    """The last layer, where it makes an output an order of magnitude above what comes in, and above unit scale."""
    head = next((op for op in view.trace.ops if is_layer(op)), None)
    scale = scale_of(head, view) if head is not None else None
    large = scale is not None and scale.output_rms >= INPUT_RMS * max(scale.input_rms, 1.0)
    return head if large else None


def _head_words(head: Op, view: View) -> str:
    scale = scale_of(head, view)
    assert scale is not None
    return (
        f"The output starts at a root mean square of {scale.output_rms:.3g}, of which "
        f"{told_op(head, view.trace, view.paths)} makes {scale.output_rms / max(scale.input_rms, 1e-30):.3g}: its "
        "weights are too large to begin with."
    )


TAIL = 5
"""Last losses of a trial whose median counts."""


def _targets(scene: Scene) -> list[Finding]:
    """Targets two orders of magnitude beyond the output's scale, where steps were not seen to cover the distance."""
    distances = [target_distance(view) for view in scene.views]
    if min(distances) <= TARGET_RATIO:
        return []
    needed = _steps_to_targets(scene)
    covered = "" if needed > FOLLOWED_STEPS else f" At the pace of the steps on a copy {steps(needed)} get there."
    view = scene.views[0]
    layer = next(op for op in view.trace.ops if is_layer(op))
    return [
        Finding(
            symptom=Symptom.EXPLODING,
            cause=Cause.INPUT_SCALE,
            where=(place(layer, view.paths), "targets"),
            severity=Severity.INFO if covered else Severity.WARNING,
            message=f"The targets lie {distances[0]:.3g} times the output's own scale away: the gradient of the "
            f"squared error is that much larger than the network is initialised for. Normalise the targets.{covered}",
            evidence=(Evidence("distance to the target over the output's scale", distances[0]),),
            remedies=remedies_for(Symptom.EXPLODING, Cause.INPUT_SCALE),
        )
    ]


def _steps_to_targets(scene: Scene) -> float:
    """How many adaptive steps the distance takes, each as long for any gradient; inf where none was seen to shorten it.

    The root of a squared error is the distance: K steps that leave sqrt(L_K / L_0) of it cover the rest at that pace.
    """
    training = scene.exhibit.training
    losses = [loss for loss in training.losses if math.isfinite(loss)] if training is not None else []
    adaptive = bool(scene.exhibit.optimizers) and all(optimizer.adaptive for optimizer in scene.exhibit.optimizers)
    if not adaptive or len(losses) < 2 or not losses[0] > 0.0:
        return math.inf
    left = math.sqrt(max(statistics.median(losses[-TAIL:]), 0.0) / losses[0])
    return (len(losses) - 1) / (1.0 - left) if left < 1.0 else math.inf


def _where(cause: Cause, scene: Scene, names: list[str]) -> tuple[str, ...]:
    if cause is Cause.LARGE_WEIGHTS:
        names = [op.weights[-1] for op in reversed(large_layers(scene.views[0]))]
    if cause is Cause.INPUT_SCALE:
        first = [place(op, scene.views[0].paths) for op in large_inputs(scene.views[0])]
        return tuple(dict.fromkeys(first or [owner(name) for name in names] + ["targets"]))
    return tuple(dict.fromkeys(owner(name) for name in names))


def _words(cause: Cause, scene: Scene) -> str:
    view = scene.views[0]
    if cause is Cause.INPUT_SCALE:
        if inputs := large_inputs(view):
            return f"The input has a root mean square of {input_rms(inputs[0], view):.3g}, where about 1 is expected."
        return f"The targets lie {target_distance(view):.3g} times the output's own scale away."
    if cause is Cause.LARGE_WEIGHTS:
        return "At a tenth of the learning rate it is no better: the weights are too large, layer by layer."
    if cause is Cause.REDUCTION_SCALE:
        return (
            f"The loss is a sum over the batch ({view.trace.batch_size}): its gradient is that many times larger than "
            "a mean's, and the learning rate does not allow for it."
        )
    rate = max((optimizer.learning_rate for optimizer in scene.exhibit.optimizers), default=math.nan)
    tenth = scene.exhibit.tenth
    tried = "" if tenth is None else " a tenth fails too" if fails(scene, tenth) else " a tenth of it does not do this"
    return f"The steps are too large (learning rate {rate:g}{';' if tried else ''}{tried})."
