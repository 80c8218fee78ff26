"""The course of trials in which the script itself is trained: its own loss, step by step, paired by seed.

A point of a curve is the mean of the losses since the point before; of the first step it is that step's.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gradtrace.errors import InputError
from gradtrace.records.repair import Outcome, Role, Trial
from gradtrace.records.vocabulary import Severity
from gradtrace.repair.training import NUM_POINTS, OutOfTime
from gradtrace.repair.trials import ORIGINAL
from gradtrace.repair.verdicts import prices
from gradtrace.runner.fixing.exchange import Answer, Order

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gradtrace.records.change import Change
    from gradtrace.records.finding import Finding
    from gradtrace.records.vocabulary import Cause
    from gradtrace.runner.script import Script

PATIENCE = 5.0
"""[times the usual] A run of the script that takes so long stands still."""
LEAST_PATIENCE_S = 60.0


@dataclass
class ScriptCourse:
    """What is the same for all trials, and every answer so far."""

    script: Script
    run_script: Callable[[Order, float], Answer]
    """Within so many seconds, or `OutOfTime`."""
    seeds: int
    steps: int
    first_layer: str
    start_s: float
    step_s: float
    deadline: float
    say: Callable[[str], None]
    deficit: float | None = None
    healed: tuple[Finding, ...] = ()
    """Of the unchanged script, before it is trained."""
    notes: list[str] = field(default_factory=list)
    measured_by: tuple[Change, ...] = ()
    """Where the script's loss is no measure: what all are measured by."""
    answers: dict[tuple[str, int], Answer] = field(default_factory=dict)
    """By title and seed."""

    @property
    def root(self) -> Cause | None:
        """The cause that was found first."""
        return next((finding.cause for finding in self.healed if finding.severity is not Severity.INFO), None)

    def run(self, trial: Trial, *, seeds: Sequence[int], steps: int) -> Trial:
        """Run the script with the changes in, once for every seed; raises `OutOfTime` where there was none."""
        outcomes: list[Outcome] = []
        for seed in seeds:
            try:
                answer = self._answer(trial, seed, steps)
            except OutOfTime:
                if not outcomes:
                    raise
                self.notes.append(f"time was up while training: {trial.title}")
                break
            except InputError as error:
                answer = Answer(refused=str(error))
            if answer.refused or not answer.losses:
                return replace(trial, refused=answer.refused or answer.failure or "its losses could not be read")
            outcomes.append(outcome(_broken(answer, steps), seed, min(steps, self.steps)))
        told = self.answers[trial.title, seeds[0]]
        moved = told.decades - self.deficit if told.decades is not None and self.deficit is not None else None
        return replace(
            trial,
            outcomes=tuple(outcomes),
            whole=steps == self.steps and len(outcomes) == self.seeds,
            levels=told.levels,
            moved_decades=moved if trial.role is not Role.ORIGINAL else None,
        )

    def _answer(self, trial: Trial, seed: int, steps: int) -> Answer:
        known = self.answers.get((trial.title, seed))
        if known is not None and (len(known.losses) >= steps or known.has_ended or not is_finite(known)):
            return known
        # where the way to the first step is long, the rest of the steps is cheap, and then known
        wanted = self.steps if (self.steps - steps) * self.step_s <= self.start_s else steps
        self.say(f"{trial.title} ({wanted} steps, seed {seed})")
        left = self.deadline - time.perf_counter()
        usual = self.start_s + wanted * self.step_s
        if left < usual:
            raise OutOfTime
        order = Order(self.script, wanted, seed, trial.changes, self.measured_by, first_layer=self.first_layer)
        begun = time.perf_counter()
        patience_s = max(LEAST_PATIENCE_S, PATIENCE * usual)
        try:
            answer = self.run_script(order, patience_s)
        except OutOfTime:
            if time.perf_counter() > self.deadline:
                raise
            answer = Answer(refused=f"the script had not made {wanted} steps after {patience_s:.0f} s")
        if answer.losses:
            self.step_s = answer.step_s
            self.start_s = max(time.perf_counter() - begun - len(answer.losses) * answer.step_s, 0.0)
        self.answers[trial.title, seed] = answer
        return answer

    def ills_of(self, trial: Trial) -> tuple[str, ...]:
        """Critical findings of the changed training that the unchanged one does not have."""
        return prices(self._findings(trial.title), self.healed, self._findings(ORIGINAL))

    def _findings(self, title: str) -> tuple[Finding, ...]:
        """Of the longest training, the first of these."""
        known = [answer for (one, _), answer in self.answers.items() if one == title]
        return max(known, key=lambda answer: len(answer.losses)).findings if known else ()


def _broken(answer: Answer, steps: int) -> Answer:
    """A script that raised has no loss from there on."""
    if answer.failure and is_finite(answer) and len(answer.losses) < steps:
        return replace(answer, losses=(*answer.losses, math.inf))
    return answer


def is_finite(answer: Answer) -> bool:
    """Whether its losses are, which end with the first that is not."""
    return not answer.losses or math.isfinite(answer.losses[-1])


def outcome(answer: Answer, seed: int, steps: int) -> Outcome:
    """The first `steps` losses as a curve.

    >>> outcome(Answer(losses=(3.0, 2.0, 1.0, 2.0, math.inf)), 0, 4).curve
    ((0, 3.0), (1, 3.0), (2, 2.0), (3, 1.0), (4, 2.0))
    >>> outcome(Answer(losses=(3.0, 2.0, 1.0, 2.0, math.inf)), 0, 5).end
    inf
    """
    losses = answer.losses[:steps]
    every = max(1, steps // NUM_POINTS)
    finite = len(losses) - (not math.isfinite(losses[-1]))
    curve = [(0, losses[0])]
    for done in range(1, finite + 1):
        if done % every == 0 or done == steps:
            curve.append((done, statistics.fmean(losses[max(0, done - every) : done])))
    bad = len(losses) - finite
    if bad:
        curve.append((len(losses), math.inf))
    return Outcome(seed, tuple(curve), None, answer.first_layer_ratio, bad, answer.step_s)
