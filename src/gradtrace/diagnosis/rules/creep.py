"""Are the steps so small that a hundred of them do less than a usual one, although the loss would follow?

A step moves a weight by r = |update| / |weight|, about 1e-3 where training goes well (Karpathy 2015): at r = 1e-5 it
takes a hundred for one of these. Momentum m makes later steps up to 1 / (1 - m) times as long as the first, which
counts for so much; Adam's first steps are as long as any. Whether the loss would follow is tried: on a copy, at the
rate that makes the steps usual ones.

A warm-up takes its steps later, and what has learnt is not asked.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.objectives import has_learnt, objectives
from gradtrace.diagnosis.rules.swallowed import decades_below_eps
from gradtrace.diagnosis.thresholds import FOLLOWED_STEPS, HEALTHY_DECADES, UPDATE_USUAL
from gradtrace.diagnosis.trial import diverged, weights_moved
from gradtrace.diagnosis.wording import LARGEST_RATIO, OVER_EPS, decades
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import HIGHER_RATE

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene
    from gradtrace.records.exhibit import Training

FOLLOWS_FRAC = 10.0 * UPDATE_USUAL
"""[of the loss] Ten times what a hundred of the given steps can do, sum |g| |update| <= r |loss| each: by this the loss
has followed."""


def judge(scene: Scene) -> list[Finding]:
    """One finding, where a usual rate was tried and the loss followed."""
    faster, ratio = scene.exhibit.faster, _ratio(scene)
    if faster is None or ratio is None or not _follows(faster):
        return []
    below, eps = _below_eps(scene)
    if below >= HEALTHY_DECADES:
        return []  # eps swallows the steps, whatever the rate: `rules.swallowed` tells
    rate = max(one.learning_rate for one in scene.exhibit.optimizers)
    factor = UPDATE_USUAL / ratio
    fell = f"{faster.losses[0]:.4g} to {faster.losses[-1]:.4g}"
    why = (
        f" The gradient lies {decades(below)} or more below eps ({eps:g}): the steps are as much shorter."
        if eps
        else ""
    )
    over = (Evidence(OVER_EPS, -below, "decades"),) if eps else ()
    return [
        Finding(
            symptom=Symptom.UNDERFLOW,
            cause=Cause.LEARNING_RATE,
            where=("",),
            severity=Severity.WARNING,
            message=f"Next to nothing moves: at a learning rate of {rate:g} the first step changes no weight by more "
            f"than {ratio:.2g} of its size, where about {UPDATE_USUAL:g} is usual. On a copy {faster.num_steps} steps "
            f"at {factor:.2g} times the rate bring the loss from {fell}.{why}",
            evidence=(Evidence(LARGEST_RATIO, ratio), Evidence("loss", faster.losses[0]), *over),
            remedies=(HIGHER_RATE,),
        )
    ]


def _below_eps(scene: Scene) -> tuple[float, float]:
    """By how many decades the largest gradient lies below eps, and eps; zeros where it lies above, or there is none."""
    optimizers = scene.exhibit.optimizers
    if not all(one.adaptive and one.eps > 0.0 for one in optimizers):
        return 0.0, 0.0
    below = min(decades_below_eps(view, scene) for view in scene.views)
    return (below, max(one.eps for one in optimizers)) if 0.0 < below < math.inf else (0.0, 0.0)


def needs_faster(scene: Scene) -> float:
    """By what to multiply the rate in a trial of whether the loss would follow; 1 where the steps are no smaller."""
    ratio = _ratio(scene)
    return UPDATE_USUAL / ratio if ratio is not None else 1.0


def _ratio(scene: Scene) -> float | None:
    """The largest |update| / |weight| of the first step, where a hundred steps do less than a usual one."""
    training, optimizers = scene.exhibit.training, scene.exhibit.optimizers
    if training is None or training.failure or not optimizers or any(one.held_back > 1.0 for one in optimizers):
        return None
    if not all(map(objectives, scene.views)) or any(map(has_learnt, scene.views)):
        return None
    longest = max((update.ratio for update in weights_moved(training)), default=0.0)
    lengthens = max(one.lengthens for one in optimizers)
    return longest if 0.0 < lengthens * longest < UPDATE_USUAL / FOLLOWED_STEPS else None


def _follows(faster: Training) -> bool:
    """By what the given steps could not do, and without running away."""
    if faster.failure or faster.broke_at is not None or len(faster.losses) < 2 or diverged(faster):
        return False
    first, last = faster.losses[0], faster.losses[-1]
    return math.isfinite(last) and last < first - FOLLOWS_FRAC * abs(first)
