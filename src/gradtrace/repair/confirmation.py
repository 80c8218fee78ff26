"""Is the best of many as good again where chance did not choose it? The winner on fresh seeds, paired as before.

Of k candidates that do nothing, the best one's lead is chance, and at 2.5 % each one of forty is expected to pass. On
seeds that had no part in the choice it must pass again: by chance a candidate does both in 0.025^2 of the cases, and
any of k in k 0.025^2 at the most (Boole), 0.8 % of twelve. So whoever fails is followed by the next in rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gradtrace.records.repair import Role, Trial
from gradtrace.repair.training import OutOfTime
from gradtrace.repair.trials import ORIGINAL
from gradtrace.repair.verdicts import judged_one

if TYPE_CHECKING:
    from gradtrace.repair.pace import Pace
    from gradtrace.repair.trials import Trains


def confirmed(ranked: Sequence[Trial], course: Trains, pace: Pace) -> tuple[Trial, ...]:
    """The trials, the first proven one confirmed; those that failed before it are no more proven."""
    proven = [trial for trial in ranked if trial.proven]
    if not proven:
        return tuple(ranked)
    if not pace.confirms:
        return tuple(_told(trial, trial, course.seeds) if trial is proven[0] else trial for trial in ranked)
    asked = {trial.title: trial for trial in ranked}
    try:
        _ask(proven, asked, course, pace.fresh(course.seeds))
    except OutOfTime:
        course.notes.append("time was up before the best could be run again on seeds that had no part in choosing it")
        asked |= {t.title: _not_asked(t) for t in asked.values() if t.proven}
    return _in_order([asked[trial.title] for trial in ranked])


def _ask(proven: Sequence[Trial], asked: dict[str, Trial], course: Trains, fresh: Sequence[int]) -> None:
    """One after the other, until one passes; raises `OutOfTime`."""
    placebos = [t for t in asked.values() if t.role is Role.PLACEBO and t.outcomes]
    original = _again(Trial(ORIGINAL, Role.ORIGINAL), fresh, course)
    toughest = [_again(min(placebos, key=_end), fresh, course)] if placebos else []
    for trial in proven:
        again = judged_one(_again(trial, fresh, course), original, toughest)
        if again.proven:
            asked[trial.title] = _told(trial, again, len(fresh))
            return
        asked[trial.title] = replace(
            trial,
            proven=False,
            confirmation=again.outcomes,
            confirmed=again.against_original,
            verdict=f"not confirmed on {len(fresh)} seeds that did not choose it: {again.verdict}",
        )


def _not_asked(trial: Trial) -> Trial:
    return replace(trial, verdict=f"{trial.verdict}, and not run again")


def _in_order(ranked: Sequence[Trial]) -> tuple[Trial, ...]:
    return (*(t for t in ranked if t.proven), *(t for t in ranked if not t.proven))


def _again(trial: Trial, seeds: Sequence[int], course: Trains) -> Trial:
    bare = Trial(trial.title, trial.role, trial.changes)
    done = course.run(bare, seeds=seeds, steps=course.steps)
    if len(done.outcomes) < len(seeds) and not done.refused:
        raise OutOfTime
    return replace(done, whole=not done.refused)


def _told(trial: Trial, again: Trial, seeds: int) -> Trial:
    return replace(
        trial,
        confirmation=again.outcomes,
        confirmed=again.against_original,
        verdict=f"proven: better than both on {seeds} seeds that did not choose it",
    )


def _end(trial: Trial) -> float:
    end = trial.end
    return end if end is not None and not math.isnan(end) else math.inf
