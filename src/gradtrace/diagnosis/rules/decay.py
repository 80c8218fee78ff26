"""Does weight decay leave the loss anything to say?

Decay adds lambda w to the gradient. Where lambda |w| is above |g| of the data in every weight, a step shortens all of
them, whatever the loss says; and as a product of small weights passes on little, w = 0 holds a network of two layers.
Decay that goes through Adam's scaling (Adam, not AdamW) does so at the full rate, however small lambda and g are.
So it counts if the weights have halved after steps on a copy (at a step that late of a run, at once), and a known loss
is no better than that of the best constant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import gradient_parts, owner
from gradtrace.diagnosis.objectives import has_learnt, objectives
from gradtrace.diagnosis.scene import is_finite, make_view
from gradtrace.diagnosis.thresholds import DROWNED, FOLLOWED_STEPS
from gradtrace.diagnosis.wording import PULL, steps
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import less_decay

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene
    from gradtrace.records.trace import ParameterStats


def judge(scene: Scene) -> list[Finding]:
    """One finding: the weight that decay pulls at hardest, compared with the loss."""
    pulls = _pulls(scene)
    late = scene.exhibit.step >= FOLLOWED_STEPS
    followed = scene.exhibit.followed
    after = followed.after if followed is not None and followed.after is not None else None
    if not pulls or (after is None and not late):
        return []
    left = 1.0
    if after is not None:
        now = {p.name: p.norm for p in after.parameters}
        left = max(now.get(p.name, p.norm) / p.norm for p, _ in pulls)
        if left > 0.5 or not is_finite(after) or has_learnt(make_view(after)):
            return []
    parameter, pull = max(pulls, key=lambda pair: pair[1])
    holders = [one for one in scene.exhibit.optimizers if parameter.name in one.parameters]
    decay, is_adaptive = max(one.weight_decay for one in holders), any(one.adaptive for one in holders)
    told = f" After {steps(FOLLOWED_STEPS)} on a copy no weight is more than {left:.2g} times as large as it was, and"
    return [
        Finding(
            symptom=Symptom.VANISHING,
            cause=Cause.SMALL_WEIGHTS,
            where=tuple(dict.fromkeys(owner(p.name) for p, _ in pulls)),
            severity=Severity.CRITICAL,
            message=f"{of_decay(decay, adaptive=is_adaptive)}: at {parameter.name} it pulls "
            f"{pull:.3g} times as hard as the loss, and at every other weight alike, so that steps follow it alone."
            f"{told if after is not None else ' And'} the loss is no better than a constant's.",
            evidence=(
                Evidence(PULL, pull),
                Evidence("weights after steps on a copy, of before", left, "fraction"),
            ),
            remedies=less_decay(adaptive=is_adaptive),
        )
    ]


def of_decay(decay: float, *, adaptive: bool) -> str:
    """How a sentence begins."""
    return f"Weight decay of {decay:g}" + (" goes through the optimizer's scaling" if adaptive else " is too strong")


def needs_following(scene: Scene) -> bool:
    """Whether the verdict rests on what steps do to the weights."""
    return bool(_pulls(scene))


def _pulls(scene: Scene) -> list[tuple[ParameterStats, float]]:
    """Each weight matrix with its lambda |w| / |g|, if that is above one in all of them and nothing is learnt."""
    decays = {name: one.weight_decay for one in scene.exhibit.optimizers for name in one.parameters}
    if not any(decays.values()) or not scene.views:
        return []
    if any(not objectives(view) or has_learnt(view) for view in scene.views):
        return []
    view = scene.views[0]
    found = [
        (p, decays.get(p.name, 0.0) * p.norm / data)
        for p in view.trace.parameters
        if len(p.shape) > 1 and p.gradient is not None and (data := gradient_parts(p, view)[0]) > 0.0
    ]
    return found if found and min(pull for _, pull in found) >= DROWNED else []
