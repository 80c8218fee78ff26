"""Trials within a budget: all candidates for a quarter of the steps, the best of them for all steps and all seeds.

Successive halving (Jamieson & Talwalkar, 2016). The unchanged network and the placebos always go all the way, and what
is paired shares seed and order of the data.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from gradtrace.errors import GradtraceError, InputError
from gradtrace.records.change import Change
from gradtrace.records.repair import Outcome, Role, Trial
from gradtrace.repair.applying import apply_changes
from gradtrace.repair.changes.table import KINDS, OF_STEPS, OF_THE_ENDS, mends
from gradtrace.repair.learning_rate import RangeTest, at_rate
from gradtrace.repair.pace import SHORT, Pace
from gradtrace.repair.training import OutOfTime, Plan, train
from gradtrace.repair.twin import Twin

if TYPE_CHECKING:
    from gradtrace.records.vocabulary import Cause
    from gradtrace.repair.situation import Situation

ORIGINAL = "The network as it came"
CALIBRATION_STEPS = 3
"""Steps by which the cost of one is measured."""


class Trains(Protocol):
    """What trains a trial, whatever it does that with."""

    seeds: int
    steps: int
    notes: list[str]

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

    @property
    def root(self) -> Cause | None:
        """The cause that was found first."""
        return next(iter(self.situation.causes), None)

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
                self.notes.append(f"time was up while training: {trial.title}")
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
    """Every trial with what became of it; those given up early keep their short run."""
    every = pace.seeds(course.seeds)
    original = course.run(original, seeds=every, steps=course.steps)
    done = [course.run(placebo, seeds=every, steps=course.steps) for placebo in placebos[: pace.placebos]]
    short = _first_round(candidates, course)
    ranked = sorted((t for t in short if t.outcomes), key=standing)
    pairs = [course.run(t, seeds=[0], steps=max(1, course.steps // SHORT)) for t in _pairs(ranked)]
    ranked = sorted([*ranked, *(t for t in pairs if t.outcomes)], key=standing)
    ranked = _with_the_root(ranked, course.root, pace.finalists)
    finals = _finals(ranked, course, pace)
    return [original, *done, *finals, *(t for t in short if not t.outcomes)]


def _with_the_root(ranked: list[Trial], root: Cause | None, places: int) -> list[Trial]:
    """The best of those that take the root away has a place among the finalists, where there are several."""
    first = next((place for place, trial in enumerate(ranked) if mends(trial.changes, root)), 0)
    if first < places or places < 2 or math.isinf(_end(ranked[first])):
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
        course.notes.append(f"time was up before the full training of: {trial.title}")
        return trial


def _first_round(candidates: Sequence[Trial], course: Trains) -> list[Trial]:
    steps = max(1, course.steps // SHORT)
    done: list[Trial] = []
    for place, trial in enumerate(candidates):
        try:
            done.append(course.run(trial, seeds=[0], steps=steps))
        except OutOfTime:
            left = len(candidates) - place
            course.notes.append(f"time was up: {left} of {len(candidates)} candidates were not tried")
            done += [replace(t, refused="not tried: time was up") for t in candidates[place:]]
            break
    return done


def _end(trial: Trial) -> float:
    end = trial.end
    return end if end is not None and not math.isnan(end) else math.inf


def standing(trial: Trial) -> tuple[float, float]:
    """The loss at the end; of those that broke, the loss before the first step."""
    return _end(trial), _start(trial)


def _pairs(ranked: Sequence[Trial]) -> list[Trial]:
    """The best candidate with the best of another kind, and with the best of a third; the best start with other steps.

    What mends the data, the output or the loss is seen where weights and layers suit what comes then: the best two of
    these kinds go together, and each with the best change of the network. The faults of one network may be several.
    Where a change begins well and its steps do not keep it, what it lacks is said by its two ends: the lowest loss
    before the first step goes with what changes the steps alone.
    """
    if not ranked or not ranked[0].changes:
        return []
    best, found, kinds = ranked[0], list[Trial](), {ranked[0].changes[0].kind}
    for other in ranked[1:]:
        kind = other.changes[0].kind
        if kind in kinds or _overlap(best.changes[0], other.changes[0]):
            continue
        kinds.add(kind)
        found.append(_pair(best, other))
        if len(found) == 2:
            break
    begun = [trial for trial in ranked if trial.changes[0].kind not in OF_STEPS and _has_lost_its_start(trial)]
    if begun:
        found += [_pair(min(begun, key=_start), one) for one in _of_steps(ranked)]
    found += _of_several_faults(ranked)
    return list({trial.title: trial for trial in found}.values())


def _of_steps(ranked: Sequence[Trial]) -> list[Trial]:
    """For a start that is mended: the best of two kinds; of lower rates those that lower it least.

    Which rate is best was found with the start as it came, and what that survives is for no other.
    """
    lower = [t for t in ranked if t.changes[0].kind == "rate" and t.changes[0].number("factor") < 1.0]
    lower.sort(key=lambda trial: -trial.changes[0].number("factor"))
    others = [t for t in ranked if t.changes[0].kind in OF_STEPS and t not in lower]
    best = {t.changes[0].kind: t for t in reversed(others)}.values()
    return [*sorted(best, key=standing)[: 1 if lower else 2], *lower[:2]]


def _of_several_faults(ranked: Sequence[Trial]) -> list[Trial]:
    first = {trial.changes[0].kind: trial for trial in reversed(ranked)}
    roots = sorted((first[kind] for kind in OF_THE_ENDS if kind in first), key=standing)[:2]
    inner = [trial for kind, trial in first.items() if kind not in (*OF_THE_ENDS, *OF_STEPS)]
    partners = [*roots[1:], *sorted(inner, key=standing)[:1]]
    pairs = [(root, partner) for root in roots for partner in partners if root is not partner]
    return [_pair(one, other) for one, other in pairs if not _overlap(one.changes[0], other.changes[0])]


def _has_lost_its_start(trial: Trial) -> bool:
    return _start(trial) < _end(trial)


def _start(trial: Trial) -> float:
    return trial.start if trial.start is not None and not math.isnan(trial.start) else math.inf


def _pair(one: Trial, other: Trial) -> Trial:
    ordered = sorted((one.changes[0], other.changes[0]), key=_order)
    return Trial(" ".join(change.title for change in ordered), Role.CANDIDATE, tuple(ordered))


def _overlap(one: Change, other: Change) -> bool:
    """Both draw the same weights, or edit the same call: the second would undo the first."""
    calls = [{(edit.function, edit.source) for edit in change.edits if edit.source} for change in (one, other)]
    return bool({d.name for d in one.draws} & {d.name for d in other.draws} or calls[0] & calls[1])


def _order(change: Change) -> int:
    # what wraps layers comes last: draws name the layers as they were
    return list(KINDS).index(change.kind) + (100 if change.kind in ("norm", "skip") else 0)
