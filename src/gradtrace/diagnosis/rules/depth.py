"""Does the gradient vanish or explode on its way from the last layer to the first?

A random cotangent at the output must fare alike: if only the loss gradient is small, the depth is not to blame.

Early against late, by Frobenius norm and per unit (both must agree), on every batch (the mildest counts), along the
critical path of each first layer. Under an adaptive optimizer a small gradient is harmless while it stays well above
its eps (Kingma & Ba 2015, alg. 1: the step is g / (|g| + eps) at the start), while it is the data's and not a penalty's
(the part that comes through the network, of all that comes), and, where it is clear-cut, if steps on a copy are seen to
even it out: the same weights that pass on too little forward make the output blind to the input, whatever the step.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from gradtrace.diagnosis.attribution import RECURRENT_FUNCTIONS, Blame, blame_growth, blame_loss
from gradtrace.diagnosis.data_scale import large_inputs, made_large_by
from gradtrace.diagnosis.depth_words import commonest_activation, evidence, message
from gradtrace.diagnosis.layer import gradient_parts, places
from gradtrace.diagnosis.profile import Profile
from gradtrace.diagnosis.rules.loss import learnt_without, of_constant
from gradtrace.diagnosis.scales import held_at_the_start
from gradtrace.diagnosis.scene import is_finite, make_view
from gradtrace.diagnosis.thresholds import CLEAR_DECADES, EPS_MARGIN, EVENED_OUT, FOLLOWED_STEPS, HEALTHY_DECADES
from gradtrace.diagnosis.wording import decades, steps
from gradtrace.measure.names import Names
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.shown import counted
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import MEAN_OF_EACH, remedies_for, step_of
from gradtrace.remedies.unsafe import remedy_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.diagnosis.scene import Scene, View
    from gradtrace.records.finding import Remedy
    from gradtrace.records.trace import ParameterStats


def judge(scene: Scene) -> list[Finding]:
    """At most one finding for what vanishes and one for what explodes: the worst path of each."""
    findings: list[Finding] = []
    limits = scene.limits.vanishing_decades, scene.limits.exploding_decades
    for symptom, extent, limit in zip((Symptom.VANISHING, Symptom.EXPLODING), (_lost, _gained), limits, strict=True):
        found = _mildest_of_worst(scene, extent)
        if found is not None and extent(found[1]) >= limit:
            findings.append(_finding(scene, symptom, *found, limit))
    return findings if any(f.symptom is Symptom.VANISHING for f in findings) else findings + _in_training(scene)


def needs_following(scene: Scene) -> bool:
    """Whether the verdict rests on an adaptive optimizer that evens out what is clear-cut."""
    found = _mildest_of_worst(scene, _lost)
    return found is not None and _lost(found[1]) >= CLEAR_DECADES and _all_adaptive(scene)


def _in_training(scene: Scene) -> list[Finding]:
    """What did not vanish at the start, and does after the steps of a trial: clear-cut, and grown by as much."""
    training = scene.exhibit.training
    if training is None or training.after is None or not is_finite(training.after) or not scene.views:
        return []
    view = make_view(training.after, scene.views[0].trace)
    if not view.profiles:
        return []
    profile = max(view.profiles, key=_lost)
    before = max((_lost(other) for other in scene.views[0].profiles), default=0.0)
    extent = _lost(profile)
    if not CLEAR_DECADES <= extent < math.inf or extent - before < HEALTHY_DECADES:
        return []
    blame = blame_loss(profile, view.paths)
    told = message(Symptom.VANISHING, profile, blame, extent, Names(view.trace))
    return [
        Finding(
            symptom=Symptom.VANISHING,
            cause=blame.cause,
            where=blame.where,
            severity=Severity.CRITICAL,
            message=f"After {steps(training.num_steps)} on a copy: {told} At the start it lost {decades(before)}.",
            evidence=(*evidence(profile), Evidence("the same at the start", -before, "decades")),
            remedies=remedies_for(Symptom.VANISHING, blame.cause),
            source=blame.op.site.source,
            step=training.num_steps,
        )
    ]


def _lost(profile: Profile) -> float:
    return -profile.lost


def _gained(profile: Profile) -> float:
    return profile.gained


def _mildest_of_worst(scene: Scene, extent: Callable[[Profile], float]) -> tuple[View, Profile] | None:
    """The worst path of each batch; of those, the one of the mildest batch."""
    worst = [(view, max(view.profiles, key=extent)) for view in scene.views if view.profiles]
    return min(worst, key=lambda pair: extent(pair[1])) if worst and len(worst) == len(scene.views) else None


def _finding(scene: Scene, symptom: Symptom, view: View, profile: Profile, limit: float) -> Finding:
    lost = symptom is Symptom.VANISHING
    blame = blame_loss(profile, view.paths) if lost else _or_inputs(blame_growth(profile, view.paths), view)
    extent = -profile.lost if lost else profile.gained
    held = held_at_the_start(profile, view, scene.exhibit.training) if lost else 0.0
    rest = extent + held if math.isfinite(held) else 0.0
    severity = Severity.CRITICAL if rest >= CLEAR_DECADES else Severity.WARNING
    note = ""
    of_probe = _of_probe(scene.probe, symptom) if scene.probe is not None else math.inf
    gets_through = of_probe < limit and extent - of_probe >= limit / 2
    if gets_through and math.isinf(extent):
        severity = Severity.WARNING
        note = " A random gradient gets through: this one is cancelled exactly, as by weights that are all alike."
    elif gets_through:
        severity = Severity.INFO
        note = " A random gradient at the output gets through unharmed: it is this loss's gradient, not the network."
    elif lost and not (blame.num_calls and severity is Severity.CRITICAL) and _harmless(scene, profile, rest):
        severity = Severity.INFO
        note = f" {_evens_out(scene)}"
        if blame.num_calls:
            note = " Later steps teach the same weights."
    elif lost and _is_time(blame) and (told := learnt_without(scene.views[-1], "the loss")):
        severity = Severity.INFO
        note = f" {told}"
    elif lost and (told := _not_evened_out(scene, profile, rest)):
        note = f" {told}"
    if lost and severity is not Severity.INFO and blame.injected:
        severity = Severity.INFO
        note = " Each application is given the same input anew: an iteration towards a fixed point contracts by design."
    if held < 0.0:
        severity = Severity.INFO if rest < limit else severity
        note += " Weights that start at zero hold it back by design: they get a gradient and leave it."
    return Finding(
        symptom=symptom,
        cause=blame.cause,
        where=blame.where,
        severity=severity,
        message=message(symptom, profile, blame, extent, Names(view.trace)) + note,
        evidence=(
            *evidence(profile),
            *_probe_evidence(scene, symptom),
            *(of_constant(view) if _is_time(blame) else ()),
        ),
        remedies=_remedies(symptom, blame, profile),
        source=blame.op.site.source,
    )


def _or_inputs(blame: Blame, view: View) -> Blame:
    """Whether one steep non-linearity, such as exp, is steep because of inputs far from unit scale."""
    steep = blame.cause is Cause.LARGE_WEIGHTS and blame.decades_here is not None and blame.op.activation is not None
    if not steep or not made_large_by(blame.op, view):
        return blame
    where = (*places(large_inputs(view), view.paths), *blame.where)
    return replace(blame, cause=Cause.INPUT_SCALE, where=tuple(dict.fromkeys(where)), at=blame.where[0])


def _remedies(symptom: Symptom, blame: Blame, profile: Profile) -> tuple[Remedy, ...]:
    if blame.cause is Cause.REDUCTION_SCALE:  # (within the network, not in the loss)
        return (MEAN_OF_EACH,)
    if blame.cause is Cause.UNSAFE_OP:
        return (remedy_of("div"),)
    if blame.one_branch:
        return (step_of(blame.num_sums),)
    return remedies_for(symptom, blame.cause, commonest_activation(profile))


def _of_probe(probe: View, symptom: Symptom) -> float:
    """Decades that a random cotangent at the output loses or gains on its worst path."""
    extent = _lost if symptom is Symptom.VANISHING else _gained
    return max((extent(profile) for profile in probe.profiles), default=math.inf)


def _probe_evidence(scene: Scene, symptom: Symptom) -> list[Evidence]:
    if scene.probe is None or not scene.probe.profiles:
        return []
    sign = -1.0 if symptom is Symptom.VANISHING else 1.0
    return [Evidence("the same for a random gradient", sign * _of_probe(scene.probe, symptom), "decades")]


def _is_time(blame: Blame) -> bool:
    """Whether what is applied again and again takes in something new each time: torch's own recurrences and cells do.

    A trace alone does not follow them step by step, so that this is all that it knows.
    """
    return bool(blame.num_calls) and blame.op.function.removesuffix("_cell") in RECURRENT_FUNCTIONS


def _harmless(scene: Scene, profile: Profile, rest: float) -> bool:
    """Every optimizer is adaptive, the early weights' gradient suffices, and steps were seen to even it out.

    One weight that is applied again and again is scaled as a whole: where hardly anything is left of the early part,
    nothing evens that out.
    `rest` are the decades that are lost once what is held back at the start is not held back any more.
    """
    return _all_adaptive(scene) and _suffices(scene, profile, rest) and _evened_out(scene, rest)


def _all_adaptive(scene: Scene) -> bool:
    optimizers = scene.exhibit.optimizers
    return bool(optimizers) and all(optimizer.adaptive for optimizer in optimizers)


def _suffices(scene: Scene, profile: Profile, rest: float) -> bool:
    """The data's part of the early gradient is above eps and the format's smallest number, and is not drowned."""
    eps = max(optimizer.eps for optimizer in scene.exhibit.optimizers)
    view, early, lost = scene.views[0], set(profile.first.weights), _lost(profile)
    freed = 10 ** (lost - rest) if math.isfinite(lost) else 1.0
    found = [p for p in view.trace.parameters if p.name in early and p.gradient is not None]
    for parameter in found:
        assert parameter.gradient is not None
        data, penalty = _parts(parameter, view, scene)
        large = data / math.sqrt(max(parameter.numel, 1)) * freed >= EPS_MARGIN * eps
        if not large or parameter.gradient.dtype == "float16" or data < penalty * 10**-HEALTHY_DECADES:
            return False
    return bool(found)


def _parts(parameter: ParameterStats, view: View, scene: Scene) -> tuple[float, float]:
    """|gradient| of a parameter that came through the network, and what a penalty or weight decay adds to it."""
    data, penalty = gradient_parts(parameter, view)
    decays = [one.weight_decay for one in scene.exhibit.optimizers if parameter.name in one.parameters]
    return data, math.hypot(penalty, max(decays, default=0.0) * parameter.norm)


def _evened_out(scene: Scene, extent: float) -> bool:
    """Whether half of the decades beyond what is healthy are gone after the steps that were followed.

    Between healthy and clear-cut nothing was followed, and nothing need be.
    """
    if extent < CLEAR_DECADES:
        return True
    left = _left_after(scene)
    return left is None or left - HEALTHY_DECADES <= EVENED_OUT * (extent - HEALTHY_DECADES)


def _left_after(scene: Scene) -> float | None:
    """[decades] that are lost after the steps on a copy; None where none were followed."""
    followed = scene.exhibit.followed
    if followed is None or followed.after is None or not is_finite(followed.after):
        return math.inf if scene.exhibit.step >= FOLLOWED_STEPS else None
    return max((_lost(profile) for profile in make_view(followed.after, scene.views[0].trace).profiles), default=0.0)


def _evens_out(scene: Scene) -> str:
    kind, left = scene.exhibit.optimizers[0].kind, _left_after(scene)
    if left is None:
        return f"{kind} evens this out: the gradient stays well above its eps."
    return f"{kind} evens this out: after {FOLLOWED_STEPS} steps on a copy {decades(left)} are left."


def _not_evened_out(scene: Scene, profile: Profile, rest: float) -> str:
    """Why an adaptive optimizer does not help here, in words; '' where there is none."""
    if not _all_adaptive(scene):
        return ""
    view, early = scene.views[0], set(profile.first.weights)
    for parameter in view.trace.parameters:
        if parameter.name in early and parameter.gradient is not None:
            data, penalty = _parts(parameter, view, scene)
            if data < penalty * 10**-HEALTHY_DECADES:
                return (
                    f"Of the gradient of {parameter.name} {data:.2g} is the data's and {penalty:.2g} a penalty's: "
                    f"{scene.exhibit.optimizers[0].kind} scales both alike, and the step follows the penalty."
                )
    left = _left_after(scene)
    if left is None or _evened_out(scene, rest):
        return ""
    kind = scene.exhibit.optimizers[0].kind
    if math.isinf(left):
        return f"{kind} has not evened this out in {counted(scene.exhibit.step, 'step')}."
    return f"{kind} does not even this out: after {FOLLOWED_STEPS} steps on a copy {decades(left)} are lost."
