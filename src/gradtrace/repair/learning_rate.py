"""At which learning rate is trained where no optimizer is given? At one that was tried: a short range test on copies.

    the rate nearest to the usual one at which any change of the network learns; the usual one, where none does

The changes are the most thorough ones of each kind: what suits the unchanged network may suit its illness alone, as
next to nothing does where gradients explode, at which nothing that is healed learns. And a rate that suits a change
must not pass for its merit: where the unchanged network does best at a lower one, that is a candidate of its own; and
where at a higher one, at which the changes may do better as well, that is told.

Each training starts anew, keeps its rate and is judged by its end. So the value that is used is one that was run, and
no spike on the way is taken for it, as with a rate that grows from step to step (Smith 2017, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gradtrace.errors import GradtraceError
from gradtrace.records.shown import counted
from gradtrace.repair.applying import apply_changes
from gradtrace.repair.given import DEFAULT_RATE, our_optimizer, words_of_ours
from gradtrace.repair.pace import SHORT
from gradtrace.repair.training import Plan, train

if TYPE_CHECKING:
    from gradtrace.records.change import Change
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
PART = 0.2
"""Of the time that is left, at most."""


@dataclass(frozen=True, slots=True)
class FoundRate:
    """What the range test says."""

    rate: float
    """At which all trials are trained."""
    unchanged: float
    """At which the network as it came does best; `rate` where it does as well there."""
    told: str
    """Where the rate is from, in words."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Of a higher rate for the unchanged network; a lower one is tried in full."""
        if self.unchanged <= self.rate:
            return ()
        return (f"the network as it came does better at a learning rate of {self.unchanged:g}; that here is ours",)

    @property
    def optimizer(self) -> str:
        """What all trials are trained with, in words."""
        return f"{words_of_ours(self.rate)}: {self.told}"

    def into(self, situation: Situation) -> Situation:
        """With the optimizer at this rate."""
        ours = [our_optimizer(situation.model, self.rate)]
        return replace(situation, optimizers=ours, unchanged_rate=self.unchanged)


def range_test(
    situation: Situation, changes: Sequence[Change], step_s: float, left_s: float, say: Callable[[str], None]
) -> FoundRate:
    """Train copies at these rates, changed and unchanged, from the same data in the same order."""
    steps = min(max(FEWEST, situation.steps // SHORT), situation.steps)
    each_s = len(RATES) * steps * step_s
    room = int(PART * left_s / each_s) if each_s > 0.0 else len(changes) + 1
    fewest = 2 if changes else 1  # of the unchanged network alone it would be a rate that suits its illness
    if room < fewest:
        told = f"untried: {counted(fewest * len(RATES) * steps, 'step')} take {fewest * each_s:.0f} s"
        return FoundRate(DEFAULT_RATE, DEFAULT_RATE, told)
    thorough = list({change.kind: change for change in changes}.values())[: room - 1]
    say(f"range test of the learning rate: {steps} steps, {len(thorough) + 1} networks")
    unchanged = [_run(situation, (), rate, steps) for rate in RATES]
    if thorough:
        rate, why = _chosen(lambda rate: [_run(situation, (change,), rate, steps) for change in thorough])
    else:
        rate, why = _chosen(lambda rate: [run for run in unchanged if run.rate == rate])
    whose = f"{counted(len(thorough), 'change')} of the network" if thorough else "the network as it came"
    rates = f"{RATES[0]:g}, {RATES[1]:g} ... {RATES[-1]:g}"
    told = f"{why}, of {rates} tried from there outwards for {counted(steps, 'step')} with {whose}"
    return FoundRate(rate, _best(unchanged, rate), told)


@dataclass(frozen=True, slots=True)
class _Run:
    """One training at one rate."""

    rate: float
    start: float = math.inf
    end: float = math.inf
    """Inf where it breaks, or where the change does not fit."""

    @property
    def learns(self) -> bool:
        """Whether its loss has fallen by what counts."""
        return math.isfinite(self.start) and self.end < self.start - LEARNS * abs(self.start)


def _run(situation: Situation, changes: tuple[Change, ...], rate: float, steps: int) -> _Run:
    try:
        twin = replace(situation, optimizers=[our_optimizer(situation.model, rate)]).twin()
        apply_changes(changes, twin)
        outcome = train(twin, Plan(situation.batches, steps), 0)
    except (GradtraceError, ArithmeticError, LookupError, TypeError, ValueError, RuntimeError):
        return _Run(rate)
    return _Run(rate, outcome.start, outcome.end)


def _chosen(runs_at: Callable[[float], Sequence[_Run]]) -> tuple[float, str]:
    """The rate, and why this one; of two as near, the one that leads lower. Rates further off are not run.

    >>> ends = {0.001: 0.9, 0.01: 0.99, 0.1: 0.7, 1.0: 0.1}
    >>> _chosen(lambda rate: [_Run(rate, 1.0, ends[rate])])
    (0.1, 'the nearest to 0.01 at which anything learns')
    >>> _chosen(lambda rate: [_Run(rate)])
    (0.01, 'the usual rate, since nothing learns at any')
    """
    for distance in sorted({_distance(rate, DEFAULT_RATE) for rate in RATES}):
        near = [rate for rate in RATES if _distance(rate, DEFAULT_RATE) == distance]
        learning = [run for rate in near for run in runs_at(rate) if run.learns]
        if learning:
            return min(
                learning, key=lambda run: run.end
            ).rate, f"the nearest to {DEFAULT_RATE:g} at which anything learns"
    return DEFAULT_RATE, "the usual rate, since nothing learns at any"


def _best(runs: Sequence[_Run], used: float) -> float:
    """The rate of the lowest loss; `used`, if that is as good.

    >>> _best([_Run(0.01, 1.0, 0.5), _Run(0.1, 1.0, 0.2)], used=0.01)
    0.1
    >>> _best([_Run(0.01, 1.0, 0.5), _Run(0.1, 1.0, 0.499)], used=0.01)
    0.01
    """
    lowest = min(run.end for run in runs)
    if not math.isfinite(lowest):
        return used
    near = [run.rate for run in runs if run.end <= lowest + AS_GOOD * abs(lowest)]
    return min(near, key=lambda rate: _distance(rate, used))


def _distance(rate: float, usual: float) -> float:
    """In decades, so that a tenth is as far as ten times."""
    return round(abs(math.log10(rate / usual)), 6)
