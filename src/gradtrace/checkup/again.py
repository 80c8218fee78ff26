"""What must be tried before it is said: a tenth of the rate, the rate a schedule holds back, a hundred steps more."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gradtrace.diagnosis.data_scale import is_far_off
from gradtrace.diagnosis.moved import USUAL
from gradtrace.diagnosis.rules import decay, time
from gradtrace.diagnosis.rules.creep import needs_faster
from gradtrace.diagnosis.rules.depth import needs_following
from gradtrace.diagnosis.rules.formats import needs_base_rate
from gradtrace.diagnosis.rules.loss import trapped_frac
from gradtrace.diagnosis.rules.steps import needs_tenth
from gradtrace.diagnosis.scene import make_scene
from gradtrace.diagnosis.thresholds import FOLLOWED_RATE, FOLLOWED_STEPS, TRAPPED_FRAC

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.diagnosis.moved import Limits
    from gradtrace.diagnosis.scene import Scene
    from gradtrace.records.exhibit import Exhibit, Training


def look_at_unseen(
    exhibit: Exhibit, run: Callable[..., Training], say: Callable[[str], None], limits: Limits = USUAL
) -> Exhibit:
    """The exhibit with what a recurrence learns, where its gradient vanishes in time.

    ``run(steps, rate, 1)`` is a trial that keeps the last batch for the end.
    """
    if time.needs_unseen(make_scene(exhibit, limits)):
        say(f"following {FOLLOWED_STEPS} steps on a copy, a batch held out")
        exhibit = replace(exhibit, unseen=run(FOLLOWED_STEPS, 1.0, 1))
        if time.is_undecided(make_scene(exhibit, limits)):
            say(f"following {2 * FOLLOWED_STEPS} steps on a copy: what was held out is being learnt")
            exhibit = replace(exhibit, unseen=run(2 * FOLLOWED_STEPS, 1.0, 1))
    return exhibit


def look_again(exhibit: Exhibit, run: Callable[..., Training], steps: int, say: Callable[[str], None]) -> Exhibit:
    """The exhibit with what its verdicts rest on; ``run(steps, rate)`` is a trial at `rate` times the learning rate."""
    scene = make_scene(exhibit)
    if needs_tenth(scene):
        say("trying a tenth of the learning rate on a copy")
        exhibit = replace(exhibit, tenth=run(steps, 0.1))
    if (factor := needs_base_rate(scene)) > 1.0:
        say("trying a step at the schedule's base rate on a copy")
        exhibit = replace(exhibit, unscheduled=run(1, factor))
    if (factor := needs_faster(scene)) > 1.0:
        say("trying a usual learning rate on a copy")
        exhibit = replace(exhibit, faster=run(FOLLOWED_STEPS, factor))
    if _needs_steps(scene):
        say(f"following {FOLLOWED_STEPS} steps on a copy")
        given = max(optimizer.learning_rate for optimizer in exhibit.optimizers)
        exhibit = replace(
            exhibit, followed=run(FOLLOWED_STEPS, max(1.0, FOLLOWED_RATE / given) if given > 0.0 else 1.0)
        )
    return exhibit


def _needs_steps(scene: Scene) -> bool:
    if needs_following(scene) or decay.needs_following(scene) or any(map(is_far_off, scene.views)):
        return True
    return bool(scene.views) and min(trapped_frac(view.trace) for view in scene.views) >= TRAPPED_FRAC
