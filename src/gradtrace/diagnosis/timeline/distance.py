"""Is the loss still above a constant's, after a start two orders of magnitude above it?

As in `rules.steps`, with the run itself in place of the steps on a copy.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.rules.distance import far_off
from gradtrace.diagnosis.scene import is_finite, make_scene
from gradtrace.diagnosis.thresholds import SUSTAINED_ROWS
from gradtrace.records.exhibit import Exhibit, Training
from gradtrace.records.run import Scalar

if TYPE_CHECKING:
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
    return [replace(finding, step=0) for finding in far_off(scene, "", num_steps)]
