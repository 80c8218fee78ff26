"""What is done where not everything fits into the time: what takes the cause away comes first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gradtrace.records.change import Change
from gradtrace.records.repair import Outcome, Role, Trial
from gradtrace.records.vocabulary import Cause
from gradtrace.repair.pace import Pace
from gradtrace.repair.training import OutOfTime
from gradtrace.repair.trials import ORIGINAL, run_all

KINDS = ("transformer", "initialisation", "norm", "skip", "residual", "clipping")
WHOLE_S = 10.0
PACE = Pace(20, finalists=1, placebos=1, confirms=False)


class Clock:
    """Trainings of `WHOLE_S` each, on a clock of their own; the changes of `KINDS` are worse from left to right."""

    root = Cause.RESIDUAL_GROWTH

    def __init__(self, seconds):
        self.seeds, self.steps, self.notes, self.now, self.deadline = 3, 20, [], 0.0, seconds

    def run(self, trial, *, seeds, steps):
        outcomes: list[Any] = []
        for seed in seeds:
            if self.now >= self.deadline and not outcomes:
                raise OutOfTime
            if self.now >= self.deadline:
                break
            self.now += WHOLE_S * steps / self.steps
            end = 0.1 * KINDS.index(trial.changes[0].kind) if trial.changes else 2.0
            outcomes.append(Outcome(seed, ((0, 2.3), (steps, end))))
        return replace(trial, outcomes=tuple(outcomes), whole=steps == self.steps and len(outcomes) == self.seeds)


def trials(seconds, monkeypatch):
    course = Clock(seconds)
    monkeypatch.setattr("gradtrace.repair.trials.time.perf_counter", lambda: course.now)
    candidates = [Trial(f"{kind}.", Role.CANDIDATE, (Change(kind, f"{kind}.", (kind,)),)) for kind in KINDS]
    placebos = [Trial("placebo", Role.PLACEBO)]
    return run_all(Trial(ORIGINAL, Role.ORIGINAL), candidates, placebos, course, PACE), course


def titles(found, condition):
    return [trial.title for trial in found if trial.role is Role.CANDIDATE and condition(trial)]


BEFORE = 6 * WHOLE_S
"""The unchanged network and a placebo, with three seeds each."""


def test_with_time_enough_all_are_tried_and_the_best_is_trained_in_full(monkeypatch):
    found, course = trials(1000.0, monkeypatch)
    assert course.notes == []
    assert titles(found, lambda t: t.whole) == ["transformer."]
    assert set(titles(found, lambda t: t.outcomes)) > {f"{kind}." for kind in KINDS}


def test_what_a_whole_training_takes_is_kept_for_it(monkeypatch):
    """Room for four short trainings, and for three whole ones."""
    found, course = trials(BEFORE + 1.2 * WHOLE_S + 3 * WHOLE_S, monkeypatch)
    assert course.notes == ["time was up: 2 of 6 candidates were not tried", "time was up: 2 of 2 pairs were not tried"]
    assert titles(found, lambda t: t.whole) == ["transformer."]
    assert titles(found, lambda t: t.refused == "time was up") == ["skip.", "clipping."]


def test_what_takes_the_root_away_is_tried_first(monkeypatch):
    found, _ = trials(BEFORE + WHOLE_S + 3 * WHOLE_S, monkeypatch)
    assert sorted(titles(found, lambda t: t.outcomes)) == ["initialisation.", "residual.", "transformer."]


def test_where_whole_ones_leave_no_room_for_a_choice_each_has_half_of_the_time(monkeypatch):
    found, course = trials(BEFORE + 2 * WHOLE_S, monkeypatch)
    assert len(titles(found, lambda t: t.outcomes)) == 3
    assert titles(found, lambda t: t.whole) == []
    assert course.notes[0] == "time was up: 3 of 6 candidates were not tried"


@pytest.mark.parametrize("more", [0.0, WHOLE_S, 2 * WHOLE_S])
def test_where_neither_fits_what_was_tried_is_told_all_the_same(more, monkeypatch):
    found, course = trials(BEFORE + more, monkeypatch)
    assert titles(found, lambda t: t.whole) == []
    assert {trial.role for trial in found} == set(Role)
    assert "candidates were not tried" in course.notes[0]
