"""How many steps, how many finalists, and on which seeds is the winner proven? What the time has room for.

The best of k candidates owes a part of its lead to chance. So the winner is run once more beside the unchanged network
and a placebo, on seeds that had no part in the choice. Where there is no room for that, one finalist is chosen by the
short round (seed 0) and all whole trainings are on other seeds: chosen less well, and proven as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

FINALISTS = 4
"""Candidates that are trained with all seeds."""
FEWEST_STEPS, MOST_STEPS = 20, 200
"""Bounds of the steps that are chosen where none are given: fewer say nothing, more add little to a comparison."""
ENOUGH_STEPS = 80
"""[steps] More time than usual is taken for these: the short round, a quarter, then has 20, which are twice as many as
momentum of 0.9 takes to reach its speed. What has not begun to train is known by none of its trials."""
FRESH = 5
"""Seeds, at least, on which the winner is run again: the interval of five is half as wide as that of three."""
SHORT = 4
"""The first round takes this part of the steps."""
PAIRS = 8
"""Of candidates, at most; they are made when each has had its short training."""
AROUND = 1.2
"""[times the steps] Scoring and copies."""
USUAL_CANDIDATES = 10
"""Where they are not known yet."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What is done within the time."""

    steps: int
    finalists: int = FINALISTS
    placebos: int = 2
    """Draws of the placebo: without a second one, its own verdict is left open."""
    confirms: bool = True
    """The winner is run once more; else the whole trainings are themselves on seeds that had no part in the choice."""

    def seeds(self, number: int) -> Sequence[int]:
        """Of the whole trainings."""
        return range(number) if self.confirms else range(1, number + 1)

    def fresh(self, number: int) -> Sequence[int]:
        """Of the winner's second trainings."""
        return range(number, number + max(number, FRESH)) if self.confirms else range(0)

    def num_runs(self, num_candidates: int, num_placebos: int, seeds: int) -> int:
        """Whole trainings; short ones are one for each candidate and each pair."""
        again = 3 * len(self.fresh(seeds))  # the winner, the unchanged network, a placebo
        return (min(self.finalists, num_candidates) + 1 + min(self.placebos, num_placebos)) * seeds + again

    def cost_s(self, numbers: tuple[int, int, int], step_s: float, start_s: float = 0.0) -> float:
        """Of everything, for (candidates, placebos, seeds), a step and the way to the first one."""
        whole, short = self.num_runs(*numbers), numbers[0] + PAIRS
        steps = (whole + short / SHORT) * self.steps
        return AROUND * steps * step_s + (whole + short) * start_s

    @property
    def left_out(self) -> tuple[str, ...]:
        """What there was no time for, in a sentence."""
        if self.confirms and self.finalists == FINALISTS:
            return ()
        if self.confirms:
            return (f"there was time for {self.finalists} finalists, in place of {FINALISTS}",)
        return ("there was time for one finalist only: a short training chose it; its full ones are on other seeds",)


_PACES = (Pace(FEWEST_STEPS), Pace(FEWEST_STEPS, 2), Pace(FEWEST_STEPS, 1, 1, confirms=False))
"""The most thorough first."""


def choose_pace(
    numbers: tuple[int, int, int], step_s: float, left_s: float, *, steps: int | None = None, start_s: float = 0.0
) -> Pace:
    """The most thorough that fits (candidates, placebos, seeds) into the seconds left, with as many steps as fit."""
    for pace in _PACES:
        pace = replace(pace, steps=steps or FEWEST_STEPS)
        if pace.cost_s(numbers, step_s, start_s) <= left_s:
            return pace if steps else replace(pace, steps=_fitting(pace, numbers, step_s, left_s, start_s))
    return replace(_PACES[-1], steps=steps or FEWEST_STEPS)


def _fitting(pace: Pace, numbers: tuple[int, int, int], step_s: float, left_s: float, start_s: float) -> int:
    fixed = replace(pace, steps=0).cost_s(numbers, step_s, start_s)
    each = replace(pace, steps=1).cost_s(numbers, step_s, 0.0)
    fitting = (left_s - fixed) / each if each > 0.0 else float(MOST_STEPS)
    return int(max(FEWEST_STEPS, min(MOST_STEPS, fitting)))
