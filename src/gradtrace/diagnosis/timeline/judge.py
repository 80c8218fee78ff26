"""A run in, findings out; each says since which step, and what came before it. Needs no torch.

Like is compared with like: a parameter's gradient with the others' at the same step, a loss with the run's own first
ones, an update with its weight. The scale of the loss changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.diagnosis.timeline import (
    astray,
    decay,
    growth,
    idle,
    layers,
    losses,
    plateau,
    reach,
    sinking,
    spikes,
    steps,
    stillness,
    uncleared,
    undone,
    unheld,
)
from gradtrace.records.vocabulary import Cause, Severity, Symptom

if TYPE_CHECKING:
    from gradtrace.records.finding import Finding
    from gradtrace.records.run import Run

RULES = (
    losses.judge,
    sinking.judge,
    undone.judge,
    plateau.judge,
    steps.judge,
    layers.judge,
    stillness.judge,
    spikes.judge,
    growth.judge,
)


def judge_run(run: Run) -> list[Finding]:
    """All findings over time, not ranked."""
    if not len(run.steps.first):
        return []
    found = [finding for rule in RULES for finding in rule(run)]
    summed, decayed, alone = uncleared.judge(run), decay.judge(run), unheld.judge(run)
    if any(finding.severity is Severity.CRITICAL for finding in alone):
        summed = []  # what two optimizers step is cleared for one of them
    found = [
        f for f in found if not (summed and _is_of_large_steps(f)) and not (decayed and f.symptom in _OF_NO_WEIGHTS)
    ]
    unreached = reach.judge(run)
    if unreached:  # no gradient is left of something that never had one
        found = [f for f in found if f.symptom is not Symptom.LOSS_SATURATED]
    return [*astray.judge(run), *alone, *idle.judge(run), *summed, *decayed, *unreached, *found]


_OF_NO_WEIGHTS = Symptom.VANISHING, Symptom.DEAD_UNITS
"""What follows where decay has taken the weights away."""


def _is_of_large_steps(finding: Finding) -> bool:
    """What follows where gradients are summed up over the steps."""
    causes = Cause.LEARNING_RATE, Cause.LOSS_FUNCTION
    whole = finding.where == ("",) or growth.growth_of(finding) is not None
    return finding.symptom is Symptom.EXPLODING and finding.cause in causes and whole
