"""Nothing is proven, and after so few steps nothing could be: all of it again, twice as long, while there is time.

A recurrence over a hundred steps, say, is mended and still needs hundreds of updates before its loss moves. Every look
at longer trainings gives chance one more try, and whoever passes must pass again on fresh seeds: with m looks at k
candidates chance comes through in m k 0.025^2 of the cases at the most (Boole; `confirmation` has one look), 2.3 % of
twelve looked at three times.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from gradtrace.diagnosis.thresholds import EFFECT_FRAC
from gradtrace.records.repair import Role
from gradtrace.repair.evidence import fell
from gradtrace.repair.training import OutOfTime
from gradtrace.repair.verdicts import NOT_BEYOND_CHANCE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gradtrace.records.repair import Trial
    from gradtrace.records.trace import Trace
    from gradtrace.repair.pace import Pace
    from gradtrace.repair.trials import Trains

MOST_DOUBLINGS = 2
SAME_REL = 1e-3
"""Two numbers that are one loss, computed in two ways in float32 or half of it."""


def run_until_told(
    run: Callable[[Pace], Sequence[Trial]],
    course: Trains,
    pace: Pace,
    costs_s: Callable[[Pace, Sequence[Trial]], float],
    most: float,
    constant: float = math.inf,
) -> tuple[Sequence[Trial], Pace]:
    """The judged trials that `run` returns, and the pace they were run at: the one given, or a longer one.

    Args:
        run: all trials, judged; raises `OutOfTime` where the unchanged network and the placebos took all.
        course: whose `steps` follow the pace.
        pace: of the first round.
        costs_s: what all of it takes at a pace [seconds], by what these trials took.
        most: steps that there can be, as many as asked for, or as a script makes.
        constant: loss of the best output that does not look at the input; infinite where it is not known.

    Raises:
        OutOfTime: by the first round.
    """
    ranked = run(pace)
    for _ in range(MOST_DOUBLINGS):
        longer = replace(pace, steps=2 * pace.steps)
        if _is_told(ranked, constant) or course.steps < pace.steps or longer.steps > most:
            break
        needed_s = costs_s(longer, ranked)
        if needed_s > course.deadline - time.perf_counter():
            told = f"after {pace.steps} steps nothing is proven: twice as many would take up to {needed_s:.0f} s"
            course.notes.append(told)
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


def constant_of(traces: Sequence[Trace]) -> float:
    """The loss of the best constant output, where the loss is one known function's mean; else infinite."""
    found = []
    for trace in traces:
        if not math.isfinite(trace.loss):  # of a part of the network
            continue
        known = [op.objective for op in trace.ops if op.objective is not None]
        if len(known) != 1 or not math.isclose(known[0].value, trace.loss, rel_tol=SAME_REL):
            return math.inf
        found.append(known[0].constant)
    return statistics.fmean(found) if found else math.inf


def _is_told(ranked: Sequence[Trial], constant: float) -> bool:
    """A remedy is proven; or somebody has trained, and no change is ahead of the unchanged network but for chance.

    From one training each nothing is known of chance, however long they are. Who has come down to the loss of the best
    constant output has not begun to look at the input.
    """
    original = next(trial for trial in ranked if trial.role is Role.ORIGINAL)
    known = [
        trial for trial in ranked if len(trial.outcomes) > 1 and trial.end is not None and math.isfinite(trial.end)
    ]
    if any(trial.proven for trial in ranked) or not known:
        return True
    below = (1.0 - EFFECT_FRAC) * constant
    trained = any(fell(trial, original) and trial.end is not None and trial.end < below for trial in known)
    return trained and all(t.verdict != NOT_BEYOND_CHANCE for t in known)
