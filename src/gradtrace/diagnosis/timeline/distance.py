"""Is the loss still above a constant's, after a start two orders of magnitude above it, or with targets as far off?

As in `rules.steps`, with the run itself in place of the steps on a copy.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.rules.distance import TAIL, far_off, steps_to_targets, targets
from gradtrace.diagnosis.scene import is_finite, make_scene
from gradtrace.diagnosis.thresholds import FOLLOWED_STEPS, SUSTAINED_ROWS
from gradtrace.diagnosis.wording import steps
from gradtrace.records.exhibit import Exhibit, Training
from gradtrace.records.run import Scalar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.diagnosis.scene import Scene
    from gradtrace.records.finding import Finding
    from gradtrace.records.run import Run
    from gradtrace.records.trace import Trace


def still_far_off(first: Trace, run: Run) -> list[Finding]:
    """`first` is the whole trace of the first step."""
    losses = run.steps.scalar(Scalar.LOSS)[1]
    known = np.flatnonzero(np.isfinite(losses))
    if len(known) < 2 * SUSTAINED_ROWS or not is_finite(first) or not math.isfinite(first.loss):
        return []
    num_steps = int(run.steps.first[known[-1]] - run.steps.first[0])
    seen = Training((first.loss, *losses[known].tolist()), ())
    scene = make_scene(Exhibit((first,), optimizers=run.header.optimizers, followed=seen))
    found = far_off(scene, "", num_steps) or _targets_still_far(scene, seen.losses, num_steps)
    return [replace(finding, step=0) for finding in found]


def _targets_still_far(scene: Scene, losses: Sequence[float], num_steps: int) -> list[Finding]:
    """Targets that were far off at the first step, while a constant output still does better, and will for long.

    A later trace may show an output that has grown: two orders of magnitude were a matter of units, one is none yet.
    """
    known = [op.objective for view in scene.views for op in view.trace.ops if op.objective is not None]
    if not known or not losses[0] > 0.0:
        return []
    worst = max(known, key=lambda one: one.value - one.constant)
    left = statistics.median(losses[-TAIL:]) / losses[0] * worst.value
    if left <= worst.constant or steps_to_targets(losses, scene.exhibit.optimizers) <= FOLLOWED_STEPS:
        return []
    told = f"After {steps(num_steps)} the loss is {left:.3g}, where a constant output gets {worst.constant:.3g}."
    return [replace(finding, message=f"{finding.message} {told}") for finding in targets(scene)]
