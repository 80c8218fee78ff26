"""Trials within a budget: all candidates for a quarter of the steps, the best of them for all steps and all seeds.

Successive halving (Jamieson & Talwalkar, 2016). The unchanged network and the placebos always go all the way, and what
is paired shares seed and order of the data.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from gradtrace.errors import GradtraceError, InputError
from gradtrace.records.repair import Outcome, Trial
from gradtrace.repair.applying import apply_changes
from gradtrace.repair.changes.table import mends
from gradtrace.repair.learning_rate import RangeTest, at_rate
from gradtrace.repair.pace import AROUND, SHORT, Pace
from gradtrace.repair.pairs import end_of, pairs_of, standing
from gradtrace.repair.training import OutOfTime, Plan, train
from gradtrace.repair.twin import Twin

if TYPE_CHECKING:
    from gradtrace.records.finding import Finding
    from gradtrace.records.vocabulary import Cause
    from gradtrace.repair.situation import Situation

ORIGINAL = "The network as it came"
TIME_WAS_UP = "time was up"
"""How a note begins that tells of what was left out."""
FEWEST_TRIED = 3
"""Candidates to choose from: the best of two is the better half of them."""
CALIBRATION_STEPS = 3
"""Steps by which the cost of one is measured."""


class Trains(Protocol):
    """What trains a trial, whatever it does that with."""

    seeds: int
    steps: int
    notes: list[str]
    deadline: float
    """On `time.perf_counter`'s clock."""

    @property
    def root(self) -> Cause | None:
        """The cause that was found first."""
        ...

    def run(self, trial: Trial, *, seeds: Sequence[int], steps: int) -> Trial:
        """The trial with its outcomes; raises `OutOfTime`, and tells of what fails as a refusal."""
        ...


@dataclass
class Course:
    """What is the same for all trials, and what time is left."""

    situation: Situation
    seeds: int
    steps: int
    held_out: Sequence[Any]
    first_layer: str
    deadline: float
    say: Callable[[str], None]
    notes: list[str] = field(default_factory=list)
    twins: dict[str, Twin] = field(default_factory=dict)
    """The copy of each trial that was trained last with the first seed."""
    rates: RangeTest | None = None
    """Of our own optimizer, where none was given."""
    trained_findings: tuple[Finding, ...] | None = None

    @property
    def root(self) -> Cause | None:
        """The cause that was found first."""
        return next(iter(self.situation.causes), None)

    def findings_once_trained(self) -> tuple[Finding, ...]:
        """Of the unchanged network; looked at once for all that are held against it."""
        twin = self.twins.get(ORIGINAL)
        if self.trained_findings is None and twin is not None:
            from gradtrace.checkup.check import check

            self.trained_findings = check(twin.model, twin.loss_fn, self.situation.batches[:1]).findings
        return self.trained_findings or ()

    def run(self, trial: Trial, *, seeds: Sequence[int], steps: int) -> Trial:
        """Train a fresh copy for every seed; raises `OutOfTime`, and keeps what fails as a refusal."""
        outcomes: list[Outcome] = []
        situation = self.situation
        if self.rates is not None:
            rate = self.rates(trial, is_final=steps == self.steps)
            trial, situation = replace(trial, rate=rate), at_rate(situation, rate)
        for seed in seeds:
            self.say(f"{trial.title} ({steps} steps, seed {seed})")
            plan = Plan(self.situation.batches, steps, self.held_out, self.first_layer, self.deadline)
            try:
                twin = situation.twin(seed)
                apply_changes(trial.changes, twin)
                outcomes.append(train(twin, plan, seed))
            except OutOfTime:
                if not outcomes:
                    raise
                self.notes.append(f"{TIME_WAS_UP} while training: {trial.title}")
                break
            except (GradtraceError, ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
                told = str(error).strip().split("\n")[0]
                return replace(
                    trial, refused=told if isinstance(error, InputError) else f"{type(error).__name__}: {told}"
                )
            if seed == seeds[0]:
                self.twins[trial.title] = twin
        if self.rates is not None and steps == self.steps:
            if any(outcome.nonfinite_steps for outcome in outcomes) and self.rates.lower(trial):
                return self.run(trial, seeds=seeds, steps=steps)
            self.rates.settled.add(trial.title)
        return replace(trial, outcomes=tuple(outcomes), whole=steps == self.steps and len(outcomes) == self.seeds)


def cost_of_a_step(situation: Situation) -> float:
    """Seconds, on a copy of the unchanged network; raises `InputError` where the loss does not hang on the model."""
    twin = situation.twin()
    began = time.perf_counter()
    train(twin, Plan(situation.batches, CALIBRATION_STEPS), 0)
    spent = (time.perf_counter() - began) / (CALIBRATION_STEPS + 2)  # and about two steps' worth of scoring
    if all(p.grad is None for p in twin.model.parameters()):
        raise InputError(
            "loss_fn does not use the model that it is given (does it reach for another one?): it must compute the "
            "loss of its first argument"
        )
    return spent


def run_all(
    original: Trial, candidates: Sequence[Trial], placebos: Sequence[Trial], course: Trains, pace: Pace
) -> list[Trial]:
    """Every trial with what became of it; those given up early keep their short run.

    What takes the root away is tried first: where time is short, it is the rest that is left out.
    """
    every, whole_s, done = pace.seeds(course.seeds), 0.0, list[Trial]()
    for trial in [original, *placebos[: pace.placebos]]:
        began = time.perf_counter()
        done.append(course.run(trial, seeds=every, steps=course.steps))
        whole_s = max(whole_s, (time.perf_counter() - began) / len(every))
    to_come = pace.finalists * len(every) + 3 * len(pace.fresh(course.seeds))
    until = _until(course.deadline, to_come * whole_s, AROUND * whole_s / SHORT)
    candidates = sorted(candidates, key=lambda trial: not mends(trial.changes, course.root))
    short = _first_round(candidates, course, until, "candidates")
    ranked = sorted((t for t in short if t.outcomes), key=standing)
    pairs = _first_round(pairs_of(ranked), course, until, "pairs")
    ranked = sorted([*ranked, *(t for t in pairs if t.outcomes)], key=standing)
    ranked = _with_the_root(ranked, course.root, pace.finalists)
    finals = _finals(ranked, course, pace)
    return [*done, *finals, *(t for t in short if not t.outcomes)]


def tell_how_long(notes: list[str], all_s: float) -> None:
    """What all of it takes, where something was left out.

    >>> notes = ["time was up: 2 of 14 candidates were not tried"]
    >>> tell_how_long(notes, 626.4)
    >>> notes[-1]
    'for all of it, about 626 s are needed'
    """
    if any(note.startswith(TIME_WAS_UP) for note in notes):
        notes.append(f"for all of it, about {all_s:.0f} s are needed")


def cost_seen(trials: Sequence[Trial], guess_s: float) -> float:
    """Seconds of a step: as first measured, or as the trainings took, where that is more (the machine has become busy).

    >>> from gradtrace.records.repair import Outcome, Role
    >>> done = Trial("t", Role.CANDIDATE, (), (Outcome(0, ((0, 1.0),), seconds_per_step=0.2),))
    >>> cost_seen([done], 0.1), cost_seen([done], 0.3)
    (0.2, 0.3)
    """
    seen = [outcome.seconds_per_step for trial in trials for outcome in trial.outcomes]
    return max(guess_s, statistics.fmean(seen) if seen else 0.0)


def _until(deadline: float, to_come_s: float, short_s: float) -> float:
    """When the last short training may begin: without whole ones nothing is proven, and of one or two none is chosen.

    Where whole ones and a few short ones do not fit, each has half of what is left, and what was tried is told.
    """
    left = deadline - time.perf_counter()
    return deadline - (to_come_s if left - to_come_s >= FEWEST_TRIED * short_s else left / 2) - short_s


def _with_the_root(ranked: list[Trial], root: Cause | None, places: int) -> list[Trial]:
    """The best of those that take the root away has a place among the finalists, where there are several."""
    first = next((place for place, trial in enumerate(ranked) if mends(trial.changes, root)), 0)
    if first < places or places < 2 or math.isinf(end_of(ranked[first])):
        return ranked
    return [*ranked[: places - 1], ranked[first], *ranked[places - 1 : first], *ranked[first + 1 :]]


def _finals(ranked: Sequence[Trial], course: Trains, pace: Pace) -> list[Trial]:
    """The best are trained in full; who breaks there, which is soon over, makes room for the next, as often at most."""
    done: list[Trial] = []
    places = pace.finalists
    for number, trial in enumerate(ranked):
        if number >= places:
            return [*done, *ranked[number:]]
        done.append(_whole(trial, course, pace.seeds(course.seeds)))
        broke = any(outcome.nonfinite_steps for outcome in done[-1].outcomes)
        places = min(places + broke, 2 * pace.finalists)
    return done


def _whole(trial: Trial, course: Trains, seeds: Sequence[int]) -> Trial:
    try:
        return course.run(trial, seeds=seeds, steps=course.steps)
    except OutOfTime:
        course.notes.append(f"{TIME_WAS_UP} before the full training of: {trial.title}")
        return trial


def _first_round(candidates: Sequence[Trial], course: Trains, until: float, what: str) -> list[Trial]:
    """The short trainings that begin before `until`."""
    steps = max(1, course.steps // SHORT)
    done: list[Trial] = []
    for place, trial in enumerate(candidates):
        try:
            if time.perf_counter() > until:
                raise OutOfTime
            done.append(course.run(trial, seeds=[0], steps=steps))
        except OutOfTime:
            left = len(candidates) - place
            course.notes.append(f"{TIME_WAS_UP}: {left} of {len(candidates)} {what} were not tried")
            done += [replace(t, refused=TIME_WAS_UP) for t in candidates[place:]]
            break
    return done
