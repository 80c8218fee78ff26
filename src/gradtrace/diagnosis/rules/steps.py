"""Do the steps fit? One optimizer step on a copy is weighed against the weights; a trial run shows whether it diverges.

A step larger than the weight itself replaces it. Whether the learning rate, the loss's reduction (a sum over the batch)
or the scale of inputs and targets is to blame follows from what would bring the step back: dividing by the batch, or by
the data's scale. The rate is blamed if a tenth of it would do; where that fails too, and the weights make the signal
grow, it is the weights.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from gradtrace.diagnosis.gate import is_output
from gradtrace.diagnosis.layer import place
from gradtrace.diagnosis.naming import told_op
from gradtrace.diagnosis.rules import attention, units
from gradtrace.diagnosis.rules.distance import far_off, targets
from gradtrace.diagnosis.rules.nonfinite import cause_of, finding_of
from gradtrace.diagnosis.rules.pairing import out_of_reach
from gradtrace.diagnosis.scene import is_finite, make_scene, make_view
from gradtrace.diagnosis.step_cause import blamed_places, cause_of_steps, reason
from gradtrace.diagnosis.trial import dead_now, diverged, large_updates, spiked, weights_moved
from gradtrace.diagnosis.wording import STEP_RATIO, percent, steps
from gradtrace.measure.path import Paths
from gradtrace.records.exhibit import Exhibit
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene
    from gradtrace.records.exhibit import Training
    from gradtrace.records.trace import Op


def judge(scene: Scene) -> list[Finding]:
    """What the data's scale, the first step and the trial run say."""
    training = scene.exhibit.training
    if not scene.views:
        return []
    if training is None or not training.losses:
        return targets(scene)
    findings = _broken(scene, training) + _diverged(scene, training) + _died(scene, training)
    findings += _flattened(scene, training)
    return findings or far_off(scene) or targets(scene)


def _broken(scene: Scene, training: Training) -> list[Finding]:
    """The trial ended in NaN or Inf: the steps are to blame if the loss ran away first, or if they are too large."""
    if training.broke_at is None or training.after is None or not all(is_finite(t) for t in scene.exhibit.traces):
        return []
    if training.after.nonfinite is not None and training.after.nonfinite.phase in ("input", "constant"):
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
    text = f"In {steps(training.num_steps)} on a copy the loss goes from {losses[0]:.4g}"
    text += f" to {peak:.4g}" if peak > losses[0] else ""
    text += " to NaN or Inf. " if training.broke_at is not None else ". " if grew else " and back. "
    if worst is not None:
        text += f"The first step changes {worst.name} by {worst.ratio:.2g} times its own size. "
    evidence = [Evidence("loss before", losses[0]), Evidence("largest loss", peak)]
    if worst is not None:
        evidence.append(Evidence(STEP_RATIO, worst.ratio))
    where = blamed_places(cause, scene, [u.name for u in large] or ([worst.name] if worst is not None else []))
    return [
        Finding(
            symptom=Symptom.EXPLODING,
            cause=cause,
            where=where,
            severity=Severity.CRITICAL if grew or training.broke_at is not None else Severity.WARNING,
            message=text + reason(cause, scene),
            evidence=tuple(evidence),
            remedies=remedies_for(Symptom.EXPLODING, cause),
            step=next((i for i, loss in enumerate(training.losses) if loss == peak), None),
        )
    ]


def _died(scene: Scene, training: Training) -> list[Finding]:
    """Layers that were alive at the start and are dead after the trial.

    An output whose bound keeps it from its targets is drawn onto the bound: that is told, and no step does it.
    """
    now = dead_now(scene, training)
    if now and training.after is not None and any(map(_is_out_of_reach, scene.views[0].trace.ops)):
        after = make_view(training.after)
        now = [(op, frac) for op, frac in now if not is_output(op, after)]
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
            f"{reason(cause, scene)}",
            evidence=(Evidence("dead units", frac, "fraction"),),
            remedies=remedies_for(Symptom.DEAD_UNITS, cause),
            source=op.site.source,
            step=training.num_steps,
        )
    ]


def _is_out_of_reach(op: Op) -> bool:
    return op.objective is not None and out_of_reach(op.objective)


def _flattened(scene: Scene, training: Training) -> list[Finding]:
    """Layers, or attention, that were not saturated at the start and are after steps that replaced the weights."""
    if training.after is None or not is_finite(training.after) or not large_updates(training):
        return []
    now = _flat(make_scene(Exhibit((training.after,)), scene.limits))
    known = {place for finding in _flat(scene) for place in finding.where}
    cause, worst = cause_of_steps(scene, training), large_updates(training)[0]
    return [
        replace(
            finding,
            cause=cause,
            message=f"After {steps(training.num_steps)} on a copy: {finding.message} Before, it was not so; the first "
            f"step changes {worst.name} by {worst.ratio:.2g} times its own size. {reason(cause, scene)}",
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


def needs_tenth(scene: Scene) -> bool:
    """Whether the verdict would be that the steps are too large."""
    return any(finding.cause is Cause.LEARNING_RATE for finding in judge(scene))
