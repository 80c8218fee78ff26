"""When to take a whole trace, so that looking costs no more than its budget?

Norms are taken at every step. Whole traces are wanted at steps 0, 1, 2, 4, 8, ... (early faults show early)
and then as often as the budget allows: one is taken where all that was spent, with its own expected cost, stays within
`budget` times the time trained so far; the first three are on credit.
"""

from __future__ import annotations

import time

GRACE = 3
"""Traces taken on credit: without them nothing would be known of the beginning, where most faults lie."""


class Budget:
    """Keeps the account of one run.

    >>> budget = Budget(0.02, clock=iter(range(100)).__next__)
    >>> budget.traced(0, 1.0)
    >>> budget.may_trace(1), budget.may_trace(3)
    (True, False)
    """

    def __init__(self, frac: float, every: int | None = None, clock=time.perf_counter) -> None:  # type: ignore[no-untyped-def]
        self.frac = frac
        self._every = every
        self._clock = clock
        self._begun = clock()
        self._spent = {"norms": 0.0, "trace": 0.0}
        self._last = {"norms": 0.0, "trace": 0.0}
        self._num_traces = 0
        self._last_trace = -1

    def spend(self, what: str, seconds: float) -> None:
        """`seconds` went into 'norms' or a 'trace'."""
        self._spent[what] += seconds
        self._last[what] = seconds

    def traced(self, step: int, seconds: float) -> None:
        """A whole trace was taken at `step`."""
        self.spend("trace", seconds)
        self._num_traces += 1
        self._last_trace = step

    def may_trace(self, step: int) -> bool:
        """Whether a whole trace is wanted at `step`, and fits."""
        early = step & (step - 1) == 0  # 0, 1, 2, 4, 8, ...
        due = self._every is not None and step - self._last_trace >= self._every
        affordable = sum(self._spent.values()) + self._last["trace"] <= self.frac * self._elapsed()
        if self._every is not None:
            return due or (early and step < self._every)
        return (early and self._num_traces < GRACE) or affordable

    @property
    def spent_frac(self) -> float:
        """Of the time since the beginning, the fraction that looking took."""
        return sum(self._spent.values()) / max(self._elapsed(), 1e-9)

    def _elapsed(self) -> float:
        return float(self._clock() - self._begun)
