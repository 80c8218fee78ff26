"""Nothing is proven, and after so few steps nothing could be: all of it again, twice as long, while there is time.

A recurrence over a hundred steps, say, is mended and still needs hundreds of updates before its loss moves. Every look
at longer trainings gives chance one more try, and whoever passes must pass again on fresh seeds: with m looks at k
candidates chance comes through in m k 0.025^2 of the cases at the most (Boole; `confirmation` has one look), 2.3 % of
twelve looked at three times.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from gradtrace.records.repair import Role
from gradtrace.repair.evidence import fell
from gradtrace.repair.training import OutOfTime
from gradtrace.repair.verdicts import NOT_BEYOND_CHANCE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gradtrace.records.repair import Trial
    from gradtrace.repair.pace import Pace
    from gradtrace.repair.trials import Trains

MOST_DOUBLINGS = 2


def run_until_told(
    run: Callable[[Pace], Sequence[Trial]],
    course: Trains,
    pace: Pace,
    costs_s: Callable[[Pace, Sequence[Trial]], float],
    most: float,
) -> tuple[Sequence[Trial], Pace]:
    """The judged trials that `run` returns, and the pace they were run at: the one given, or a longer one.

    Args:
        run: all trials, judged; raises `OutOfTime` where the unchanged network and the placebos took all.
        course: whose `steps` follow the pace.
        pace: of the first round.
        costs_s: what all of it takes at a pace [seconds], by what these trials took.
        most: steps that there can be, as many as asked for, or as a script makes.

    Raises:
        OutOfTime: by the first round.
    """
    ranked = run(pace)
    for _ in range(MOST_DOUBLINGS):
        longer = replace(pace, steps=2 * pace.steps)
        left_s = course.deadline - time.perf_counter()
        if _is_told(ranked) or course.steps < pace.steps or longer.steps > most or costs_s(longer, ranked) > left_s:
            break
        num_notes = len(course.notes)
        course.steps = longer.steps
        try:
            again = run(longer)
        except OutOfTime:
            course.steps = pace.steps
            del course.notes[num_notes:]
            break
        course.notes.append(f"after {pace.steps} steps nothing was proven: all of it was trained for {longer.steps}")
        ranked, pace = again, longer
    return ranked, pace


def _is_told(ranked: Sequence[Trial]) -> bool:
    """A remedy is proven; or somebody has trained, and no change is ahead of the unchanged network but for chance.

    From one training each nothing is known of chance, however long they are.
    """
    original = next(trial for trial in ranked if trial.role is Role.ORIGINAL)
    known = [
        trial for trial in ranked if len(trial.outcomes) > 1 and trial.end is not None and math.isfinite(trial.end)
    ]
    if any(trial.proven for trial in ranked) or not known:
        return True
    return any(fell(trial, original) for trial in known) and all(t.verdict != NOT_BEYOND_CHANCE for t in known)
