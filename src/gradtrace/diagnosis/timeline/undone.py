"""Has the loss come down and gone back up again, under steps that were far from healthy?

What is told of a loss that runs away is held against its start. A network that forgets what it had learnt does not get
that far: outputs that are wrong at random cost no more than at the start. So it is held against its own fall here:

    most of the fall undone:  now >= low + (start - low) / 2,  where  low <= start / 2

in most of what is known of the later half of the run. A loss may also rise because the task gets harder: then no
step is large; and of players of a game each one's loss rises where another's falls: then there are several optimizers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.thresholds import DOMINANT_FRAC, FALLEN_FACTOR, FOLLOWED_STEPS, SUSTAINED_ROWS, UPDATE_HEALTHY
from gradtrace.diagnosis.timeline.losses import by_chance, finite_losses, largest_update, last_rows
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for

if TYPE_CHECKING:
    from gradtrace.records.run import Run


def judge(run: Run) -> list[Finding]:
    """At most one finding."""
    steps, low, high = finite_losses(run)
    width = last_rows(len(steps))
    if len(run.header.optimizers) != 1 or len(steps) < 3 * width or low.min() <= 0.0:
        return []
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(high, width), axis=1)
    at = int(np.argmin(smooth))
    lowest, start = float(smooth[at]), float(np.median(high[:SUSTAINED_ROWS]))
    limit = lowest + DOMINANT_FRAC * (start - lowest)
    late = low[steps >= (steps[0] + steps[-1]) / 2.0]
    if lowest * FALLEN_FACTOR > start or not len(late) or int(steps[-1] - steps[at]) < FOLLOWED_STEPS:
        return []
    now = float(np.median(late))
    if now < limit or now - lowest <= by_chance(high, width, len(late)):
        return []
    onset = int(steps[len(steps) - len(late)])
    ratio = largest_update(run, int(steps[at]))
    if not ratio > UPDATE_HEALTHY:
        return []
    return [
        Finding(
            symptom=Symptom.EXPLODING,
            cause=Cause.LEARNING_RATE,
            where=("",),
            severity=Severity.WARNING,
            message=f"The loss had come down from {start:.3g} to {lowest:.3g}, and since step {onset} it stands at "
            f"{now:.3g}: most of what was learnt is undone. Steps moved weights by up to {ratio:.2g} of their size, "
            f"where {UPDATE_HEALTHY:g} is a lot.",
            evidence=(
                Evidence("loss before", lowest),
                Evidence("loss now", now),
                Evidence("update to weight ratio", ratio),
            ),
            remedies=remedies_for(Symptom.EXPLODING, Cause.LEARNING_RATE),
            step=onset,
        )
    ]
