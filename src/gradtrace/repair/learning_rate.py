"""At which learning rate is trained where no optimizer is given? Each network at the one that suits it: a range test.

    rate of a network  =  of the decades tried, the one with the lowest loss at the end of a short training

One rate for all is fair to none: a network that is healed of exploding gradients learns at a rate at which it broke as
it came, and inputs of one need steps that inputs in the hundreds do not survive. So a change would be held to the rate
of an illness, or a rate would pass for the merit of a change. Here the network as it came has its own best rate, found
over as many steps as a trial has, and what does better at its own does better by the change.

The rates are walked from the usual one outwards, each way until what has been found learns and the next is no better.
Each training starts anew, keeps its rate and is judged by its end. So the value that is used is one that was run, and
no spike on the way is taken for it, as with a rate that grows from step to step (Smith 2017, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gradtrace.errors import GradtraceError
from gradtrace.records.repair import Role
from gradtrace.records.shown import counted
from gradtrace.repair.applying import apply_changes
from gradtrace.repair.changes.table import OF_STEPS
from gradtrace.repair.given import DEFAULT_MOMENTUM, DEFAULT_RATE, our_optimizer, words_of_ours
from gradtrace.repair.pace import SHORT
from gradtrace.repair.training import Plan, train

if TYPE_CHECKING:
    from gradtrace.records.change import Change
    from gradtrace.records.repair import Trial
    from gradtrace.repair.situation import Situation

RATES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Decades: a curvature of a million to that of one, the step of gradient descent being stable below two over it."""
FEWEST = 20
"""Steps of each training, or as many as a trial has: twice as many as momentum of 0.9 takes to reach its speed. Where
the short round has more, as many."""
LEARNS = 0.2
"""[of the loss at the start] By how much it has fallen where a network learns."""
AS_GOOD = 0.02
"""[of a loss] By no more than this two ends differ by chance alone."""
PART = 0.3
"""Of the time that is left, at most: a dozen networks at about four rates each take as much of a usual course."""


@dataclass
class RangeTest:
    """The rate of each network, found when it is asked for first."""

    situation: Situation
    steps: int
    """Of each training of a changed network."""
    left: int
    """Steps that there is time for."""
    say: Callable[[str], None] = lambda _: None
    unchanged: float = DEFAULT_RATE
    """Of the network as it came."""
    told: str = ""
    """Which optimizer it is, in words."""
    found: dict[str, float] = field(default_factory=dict)
    """By a trial's title; and by a change's kind, for what there is no time to test."""

    def __call__(self, trial: Trial) -> float:
        """What is drawn anew by chance alone, and what changes the steps themselves, has the unchanged network's."""
        if trial.role is not Role.CANDIDATE or any(change.kind in OF_STEPS for change in trial.changes):
            return self.unchanged
        if trial.title not in self.found:
            self.found[trial.title] = self._found(trial)
        return self.found[trial.title]

    def _found(self, trial: Trial) -> float:
        kind = trial.changes[-1].kind
        if self.left < len(RATES) * self.steps:
            return self.found.get(kind, next(reversed(self.found.values()), DEFAULT_RATE))
        self.say(f"{trial.title} (range test of the learning rate)")
        self.found[kind] = self.walk(trial.changes, self.steps)
        return self.found[kind]

    def walk(self, changes: tuple[Change, ...], steps: int) -> float:
        """The rate of the lowest end."""

        def run_at(rate: float) -> Run:
            self.left -= steps
            return _run(self.situation, changes, rate, steps)

        return best_of(run_at).rate


def range_test(situation: Situation, step_s: float, left_s: float, say: Callable[[str], None]) -> RangeTest:
    """The network as it came is tested at once; where there is no time for two networks, none is."""
    steps = min(max(FEWEST, situation.steps // SHORT), situation.steps)
    room = PART * left_s / step_s if step_s > 0.0 else math.inf
    least = 2 * len(RATES) * steps
    if room < least:
        told = f"{words_of_ours(DEFAULT_RATE)}: untried, for {counted(least, 'step')} take {least * step_s:.0f} s"
        return RangeTest(situation, steps, 0, say, told=told)
    test = RangeTest(situation, steps, int(min(room, 1e9)), say)
    whole = situation.steps if room >= 2 * len(RATES) * situation.steps else steps
    say("The network as it came (range test of the learning rate)")
    test.unchanged = test.walk((), whole)
    rates = f"{RATES[0]:g}, {RATES[1]:g} ... {RATES[-1]:g}"
    test.told = (
        f"SGD(momentum={DEFAULT_MOMENTUM}), since none was given, each network at its own best learning rate of "
        f"{rates}: as it came at {test.unchanged:g} by {counted(whole, 'step')}, the others by {steps}"
    )
    return test


def at_rate(situation: Situation, rate: float) -> Situation:
    """With our own optimizer at this rate."""
    return replace(situation, optimizers=[our_optimizer(situation.model, rate)])


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


def best_of(run_at: Callable[[float], Run]) -> Run:
    """From the usual rate outwards; of rates that are as good the one that is nearer to it.

    >>> ends = {0.001: 0.9, 0.01: 0.99, 0.1: 0.7, 1.0: 0.1}
    >>> best_of(lambda rate: Run(rate, 1.0, ends[rate])).rate
    1.0
    >>> best_of(lambda rate: Run(rate, 1.0, 0.5 if rate < 0.001 else math.inf)).rate
    0.0001
    >>> best_of(lambda rate: Run(rate)).rate
    0.01
    """
    usual = RATES.index(DEFAULT_RATE)
    best = run_at(DEFAULT_RATE)
    for way in (RATES[usual + 1 :], reversed(RATES[:usual])):
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
