"""At which learning rate is trained where no optimizer is given? Each network at the one that suits it: a range test.

    rate of a network  =  of the usual decades, the one with the lowest loss at the end of a short training

One rate for all is fair to none: a network that is healed of exploding gradients learns at a rate at which it broke as
it came, and inputs of one need steps that inputs in the hundreds do not survive. So a change would be held to the rate
of an illness, or a rate would pass for the merit of a change. Here the network as it came has its own best rate, found
over as many steps as a trial has, and what does better at its own does better by the change.

Usual is what people try, a decade around 0.01. What learns at a millionth alone is what was to be healed: that the
network as it came does is told in a note. Only where no change learns at a usual rate, all are tested at all rates.
Where none learns at these either, the loss may be in small units: L at a rate makes the steps of c L at that rate over
c. As the findings do not change with c, the rates then go on as many decades above one as they do below.

The rates are walked from the usual one outwards, each way until what has been found learns and the next is no better.
Each training starts anew, keeps its rate and is judged by its end. So the value that is used is one that was run, and
no spike on the way is taken for it, as with a rate that grows from step to step (Smith 2017, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gradtrace.errors import GradtraceError
from gradtrace.records.repair import Role
from gradtrace.records.shown import counted
from gradtrace.repair.applying import apply_changes
from gradtrace.repair.changes.table import OF_STEPS
from gradtrace.repair.given import DEFAULT_MOMENTUM, DEFAULT_RATE, our_optimizer, words_of_ours
from gradtrace.repair.pace import FINALISTS, PAIRS, SHORT
from gradtrace.repair.training import Plan, train

if TYPE_CHECKING:
    from gradtrace.records.change import Change
    from gradtrace.records.repair import Trial
    from gradtrace.repair.situation import Situation

RATES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Decades: a curvature of a million to that of one, the step of gradient descent being stable below two over it."""
USUAL = (1e-3, 1e-2, 1e-1)
"""Those that are tried first."""
HIGHER = (DEFAULT_RATE, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6)
"""For a loss in small units: the mirror image of the lower ones."""
FEWEST = 20
"""Steps of each training, or as many as a trial has: twice as many as momentum of 0.9 takes to reach its speed. Where
the short round has more, as many."""
LEARNS = 0.2
"""[of the loss at the start] By how much it has fallen where a network learns."""
AS_GOOD = 0.02
"""[of a loss] By no more than this two ends differ by chance alone."""
PART = 0.4
"""Of the time that is left, at most: a dozen networks at three rates each, and four finalists, take as much."""


@dataclass(frozen=True, slots=True)
class Run:
    """One training at one rate."""

    rate: float
    start: float = math.inf
    end: float = math.inf
    """Inf where it breaks, or where the change does not fit."""

    @property
    def learns(self) -> bool:
        """Whether its loss has fallen by what counts."""
        return math.isfinite(self.start) and self.end < self.start - LEARNS * abs(self.start)

    def is_better(self, other: Run) -> bool:
        """By more than chance."""
        if math.isinf(other.end):
            return math.isfinite(self.end)
        return self.end < other.end - AS_GOOD * abs(other.end)


@dataclass
class RangeTest:
    """The rate of each network, found when it is asked for first."""

    situation: Situation
    steps: int
    """Of each training of a changed network."""
    left: int
    """Steps that there is time for."""
    say: Callable[[str], None] = lambda _: None
    rates: tuple[float, ...] = USUAL
    whole: int = 0
    """Steps of each training of the network as it came."""
    unchanged: Run = field(default_factory=lambda: Run(DEFAULT_RATE))
    """The network as it came, at its best."""
    found: dict[str, Run] = field(default_factory=dict)
    """By a trial's title; and by a change's kind, for what there is no time to test."""

    of_steps: float = DEFAULT_RATE
    """Of changes of the steps themselves, which are written for the rate that the network as it came has then."""
    settled: set[str] = field(default_factory=set)
    """Titles of those whose rate stays."""
    finals: dict[str, Run] = field(default_factory=dict)
    """Of those that are trained for all steps, over as many, as the network as it came."""

    def __call__(self, trial: Trial, *, is_final: bool = False) -> float:
        """What is drawn anew by chance alone, and what changes the steps themselves, has the unchanged network's."""
        if trial.role is not Role.CANDIDATE:
            return self.unchanged.rate
        if _is_of_steps(trial):
            return self.of_steps
        if trial.title not in self.found:
            self.found[trial.title] = self._found(trial)
        if is_final and trial.title not in self.finals and self.left >= len(self.rates) * self.whole > 0:
            self.say(f"{trial.title} (range test of the learning rate)")
            self.finals[trial.title] = self._walk(trial.changes, self.whole)
        best = self.finals if is_final and trial.title in self.finals else self.found
        return best[trial.title].rate

    @property
    def to_come(self) -> int:
        """Steps, at most, of the tests that are left for finalists and pairs."""
        return min(self.left, len(self.rates) * (FINALISTS * self.whole + PAIRS * self.steps))

    def test(self, trials: Sequence[Trial]) -> None:
        """Every network, at the usual rates; where no change learns at any, at all rates, and then at higher ones."""
        tiers = (USUAL, RATES, HIGHER)
        for self.rates, following in zip(tiers, (*tiers[1:], ()), strict=True):
            self.found.clear()
            if self.whole and self.left >= len(self.rates) * self.whole:
                self.say("The network as it came (range test of the learning rate)")
                self.unchanged = self._walk((), self.whole)
            for trial in trials:
                self(trial)
            self.of_steps = self.unchanged.rate
            if any(run.learns for run in self.found.values()) or self.left < len(following) * self.steps:
                return

    def lower(self, trial: Trial) -> bool:
        """Whether there is a lower rate for a network that broke with one of its seeds, at a rate chosen by another.

        Once it has been trained in full, its rate stays. What is drawn by chance alone follows the unchanged network.
        """
        now = self(trial, is_final=True)
        less = [rate for rate in self.rates if rate < now]
        if not less or trial.title in self.settled or trial.role is Role.PLACEBO or _is_of_steps(trial):
            return False
        if trial.role is Role.ORIGINAL:
            self.unchanged = replace(self.unchanged, rate=max(less))
        else:
            self.finals[trial.title] = Run(max(less))
        return True

    def _found(self, trial: Trial) -> Run:
        kind = trial.changes[-1].kind
        if self.left < len(self.rates) * self.steps:
            return self.found.get(kind, next(reversed(self.found.values()), Run(DEFAULT_RATE)))
        self.say(f"{trial.title} (range test of the learning rate)")
        self.found[kind] = self._walk(trial.changes, self.steps)
        return self.found[kind]

    def _walk(self, changes: tuple[Change, ...], steps: int) -> Run:
        def run_at(rate: float) -> Run:
            self.left -= steps
            return _run(self.situation, changes, rate, steps)

        return best_of(run_at, self.rates)

    @property
    def optimizer(self) -> str:
        """Which it is, in words."""
        if not self.whole:
            return f"{words_of_ours(DEFAULT_RATE)}: there was no time to test any other rate"
        return (
            f"SGD(momentum={DEFAULT_MOMENTUM}), since none was given, each network at its own best learning rate of "
            f"{', '.join(f'{rate:g}' for rate in self.rates)}: as it came at {self.unchanged.rate:g} by "
            f"{counted(self.whole, 'step')}, the others by {self.steps}, and by as many where they are trained in full"
        )

    def notes(self) -> tuple[str, ...]:
        """Of a lower rate at which the network as it came learns, where it does at no usual one."""
        for rate in reversed(RATES[: RATES.index(min(self.rates))]):
            if self.unchanged.learns or self.left < self.steps:
                break
            self.left -= self.steps
            if _run(self.situation, (), rate, self.steps).learns:
                return (f"at a learning rate of {rate:g} the network as it came learns too",)
        return ()


def _is_of_steps(trial: Trial) -> bool:
    return any(change.kind in OF_STEPS for change in trial.changes)


def range_test(situation: Situation, step_s: float, left_s: float, say: Callable[[str], None]) -> RangeTest:
    """Where there is no time for two networks at the usual rates, none is tested."""
    steps = min(max(FEWEST, situation.steps // SHORT), situation.steps)
    room = int(min(PART * left_s / step_s, 1e9)) if step_s > 0.0 else 10**9
    if room < 2 * len(USUAL) * steps:
        return RangeTest(situation, steps, 0, say)
    whole = situation.steps if room >= 2 * len(USUAL) * situation.steps else steps
    return RangeTest(situation, steps, room, say, whole=whole)


def at_rate(situation: Situation, rate: float) -> Situation:
    """With our own optimizer at this rate."""
    return replace(situation, optimizers=[our_optimizer(situation.model, rate)])


def best_of(run_at: Callable[[float], Run], rates: tuple[float, ...] = RATES) -> Run:
    """From the usual rate outwards; of rates that are as good the one that is nearer to it.

    >>> ends = {0.001: 0.9, 0.01: 0.99, 0.1: 0.7, 1.0: 0.1}
    >>> best_of(lambda rate: Run(rate, 1.0, ends[rate])).rate
    1.0
    >>> best_of(lambda rate: Run(rate, 1.0, 0.5 if rate < 0.001 else math.inf)).rate
    0.0001
    >>> best_of(lambda rate: Run(rate)).rate
    0.01
    """
    usual = rates.index(DEFAULT_RATE)
    best = run_at(DEFAULT_RATE)
    for way in (rates[usual + 1 :], reversed(rates[:usual])):
        for rate in way:
            run = run_at(rate)
            if run.is_better(best):
                best = run
            elif best.learns:
                break
    return best


def _run(situation: Situation, changes: tuple[Change, ...], rate: float, steps: int) -> Run:
    try:
        twin = at_rate(situation, rate).twin()
        apply_changes(changes, twin)
        outcome = train(twin, Plan(situation.batches, steps), 0)
    except (GradtraceError, ArithmeticError, LookupError, TypeError, ValueError, RuntimeError):
        return Run(rate)
    return Run(rate, outcome.start, outcome.end)
