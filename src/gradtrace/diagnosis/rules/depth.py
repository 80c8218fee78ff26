"""Does the gradient vanish or explode on its way from the last layer to the first?

A random cotangent at the output must fare alike: if only the loss gradient is small, the depth is not to blame.

Early against late, by Frobenius norm and per unit (both must agree), on every batch (the mildest counts), along the
critical path of each first layer. Under an adaptive optimizer a small gradient is harmless while it stays well above
its eps (Kingma & Ba 2015, alg. 1: the step is g / (|g| + eps) at the start).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.attribution import Blame, blame_growth, blame_loss
from gradtrace.diagnosis.profile import Profile, owner
from gradtrace.diagnosis.scales import held_at_the_start
from gradtrace.diagnosis.thresholds import CLEAR_DECADES, EPS_MARGIN, HEALTHY_DECADES
from gradtrace.diagnosis.wording import CAUSES, EXTENT, decades, times
from gradtrace.measure.names import Names
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Factor, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene, View


def judge(scene: Scene) -> list[Finding]:
    """At most one finding for what vanishes and one for what explodes: the worst path of each."""
    findings = []
    for symptom, extent in ((Symptom.VANISHING, _lost), (Symptom.EXPLODING, _gained)):
        found = _mildest_of_worst(scene, extent)
        if found is not None and extent(found[1]) >= HEALTHY_DECADES:
            findings.append(_finding(scene, symptom, *found))
    return findings


def _lost(profile: Profile) -> float:
    return -profile.lost


def _gained(profile: Profile) -> float:
    return profile.gained


def _mildest_of_worst(scene: Scene, extent) -> tuple[View, Profile] | None:  # type: ignore[no-untyped-def]
    """The worst path of each batch; of those, the one of the mildest batch."""
    worst = [(view, max(view.profiles, key=extent)) for view in scene.views if view.profiles]
    return min(worst, key=lambda pair: extent(pair[1])) if worst and len(worst) == len(scene.views) else None


def _finding(scene: Scene, symptom: Symptom, view: View, profile: Profile) -> Finding:
    lost = symptom is Symptom.VANISHING
    blame = (blame_loss if lost else blame_growth)(profile, view.paths)
    extent = -profile.lost if lost else profile.gained
    held = held_at_the_start(profile, view, scene.exhibit.training) if lost else 0.0
    rest = extent + held if math.isfinite(held) else 0.0
    severity = Severity.CRITICAL if rest >= CLEAR_DECADES else Severity.WARNING
    note = ""
    of_probe = _of_probe(scene.probe, symptom) if scene.probe is not None else math.inf
    gets_through = of_probe < HEALTHY_DECADES and extent - of_probe >= HEALTHY_DECADES / 2
    if gets_through and math.isinf(extent):
        severity = Severity.WARNING
        note = " A random gradient gets through: this one is cancelled exactly, as by weights that are all alike."
    elif gets_through:
        severity = Severity.INFO
        note = " A random gradient at the output gets through unharmed: it is this loss's gradient, not the network."
    elif lost and not (blame.num_calls and severity is Severity.CRITICAL) and _harmless(scene, profile, rest - extent):
        severity = Severity.INFO
        note = f" {scene.exhibit.optimizers[0].kind} evens this out: the gradient stays well above its eps."
        if blame.num_calls:
            note = " Later steps teach the same weights."
    elif lost and blame.injected:
        severity = Severity.INFO
        note = " Each application is given the same input anew: an iteration towards a fixed point contracts by design."
    if held < 0.0:
        severity = Severity.INFO if rest < HEALTHY_DECADES else severity
        note += " Weights that start at (or near) zero hold it back by design: they get a gradient and leave it."
    return Finding(
        symptom=symptom,
        cause=blame.cause,
        where=blame.where,
        severity=severity,
        message=_message(symptom, profile, blame, extent, Names(view.trace)) + note,
        evidence=(*_evidence(profile), *_probe_evidence(scene, symptom)),
        remedies=remedies_for(symptom, blame.cause),
        source=blame.op.site.source,
    )


def _of_probe(probe: View, symptom: Symptom) -> float:
    """Decades that a random cotangent at the output loses or gains on its worst path."""
    extent = _lost if symptom is Symptom.VANISHING else _gained
    return max((extent(profile) for profile in probe.profiles), default=math.inf)


def _probe_evidence(scene: Scene, symptom: Symptom) -> list[Evidence]:
    if scene.probe is None or not scene.probe.profiles:
        return []
    sign = -1.0 if symptom is Symptom.VANISHING else 1.0
    return [Evidence("the same for a random gradient", sign * _of_probe(scene.probe, symptom), "decades")]


def _harmless(scene: Scene, profile: Profile, held: float) -> bool:
    """Every optimizer is adaptive and the early weights' gradient stays above eps and the format's smallest number.

    One weight that is applied again and again is scaled as a whole: where hardly anything is left of the early part,
    nothing evens that out.
    The gradient as it is once the `held` decades (negative) are not held back any more.
    """
    optimizers = scene.exhibit.optimizers
    if not optimizers or not all(optimizer.adaptive for optimizer in optimizers):
        return False
    eps = max(optimizer.eps for optimizer in optimizers)
    early = set(profile.first.weights)
    gradients = [p.gradient for p in scene.views[0].trace.parameters if p.name in early and p.gradient is not None]
    return bool(gradients) and all(g.rms * 10**-held >= EPS_MARGIN * eps and g.dtype != "float16" for g in gradients)


def _message(symptom: Symptom, profile: Profile, blame: Blame, extent: float, names: Names) -> str:
    first, late = (names.told(owner(op.weights[-1])) for op in (profile.first, profile.reference))
    verb = "shrinks" if symptom is Symptom.VANISHING else "grows"
    if blame.num_calls:
        per_call = decades(extent / blame.num_calls)
        head = f"The loss gradient {verb} {times(extent)} through {names.told(blame.where[0])}, applied "
        head += f"{blame.num_calls} times in a row ({per_call} each)."
    elif math.isinf(extent):
        head = f"No gradient at all reaches {first}: it is exactly zero."
    else:
        head = f"The loss gradient {verb} {times(extent)} from {late} to {first}"
        if blame.decades_here is not None:
            head += f", {decades(abs(blame.decades_here))} of it at {names.told(blame.where[0])} alone."
        else:
            head += f" ({decades(extent / profile.num_spans)} per layer over {profile.num_spans} layers)."
    return f"{head} {CAUSES[blame.cause].format(where=names.listed(blame.where))}"


def _evidence(profile: Profile) -> tuple[Evidence, ...]:
    per_factor = [
        Evidence(f"{factor.value} gain", round(profile.total(factor), 4), "decades")
        for factor in Factor
        if any(link.factor is factor for link in profile.links)
    ]
    slopes = [op.activation.derivative_mean for link in profile.links if (op := link.op).activation]
    mean = [Evidence("mean |a'|", sum(slopes) / len(slopes), "")] if slopes else []
    return (
        Evidence(EXTENT, profile.decades_norm, "decades"),
        Evidence("early against late (per unit)", profile.decades_rms, "decades"),
        Evidence("layers between", profile.num_spans, "layers"),
        *per_factor,
        *mean,
    )
