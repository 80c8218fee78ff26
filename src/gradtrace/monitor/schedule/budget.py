"""When to measure, so that looking costs no more than its budget, and never nothing at all?

Some of the cost cannot be helped (the hooks themselves). Of what is left, shares go to the gradients' norms, wanted at
every step; to weights and updates, wanted at steps 0, 1, 2, 4, 8, ... and then every tenth; and to whole traces, wanted
at steps 0, 1, 2, 4, 8, ..., and sooner where they can be paid for. Each is done where what it took so far, and will
take this time, stays within its share of the allowance

    allowance(t) = budget (t + CREDIT_S / (1 + t / (2 CREDIT_S)))        t: seconds since the run began

which lends a fifth of a second (at 2 %) to the beginning, where most faults lie, and takes it back by and by. However
dear it is, norms are taken at steps whose distance grows with their number, so that N steps have about 32 ln N rows,
and whole traces at steps 8, 32, 128, ...
"""

from __future__ import annotations

import time

TRACES_ON_CREDIT = 3
"""Without them nothing would be known of the beginning of a run whose single steps take long."""

CREDIT_S = 10.0
"""[seconds of training] That early on, what they allow may be spent in advance."""

UPDATES_EVERY = 10
"""[steps] Between two measurements of weights and updates, which need a copy of the weights."""

SHARES = {"norms": 0.55, "updates": 0.1, "findings": 0.05, "trace": 0.3}
"""[fraction of the allowance, less what the hooks take] Each may take so much: none can starve another."""

NORMS_PER_EFOLD, UPDATES_PER_EFOLD = 32, 16
"""Measured at least so often while the number of steps grows e-fold: an onset is known to 3 % of its step."""

TRACES_APART, URGENT_TRACES_APART = 4, 1.25
"""A whole trace is taken at least where the number of steps is so many times that at the last one; where the loss has
just jumped, the second."""

_ACCOUNTS = ("hooks", *SHARES)


class Budget:
    """Keeps the account of one run.

    >>> budget = Budget(0.02, clock=iter(range(100)).__next__)
    >>> budget.spend("trace", 1.0, step=0)
    >>> budget.may_trace(1), budget.may_trace(3)
    (True, False)
    """

    def __init__(self, frac: float, every: int | None = None, clock=time.perf_counter) -> None:  # type: ignore[no-untyped-def]
        self.frac = frac
        self._every = every
        self._clock = clock
        self._begun = clock()
        self._spent = dict.fromkeys(_ACCOUNTS, 0.0)
        self._last = dict.fromkeys(_ACCOUNTS, 0.0)
        self._num_traces, self._last_trace_s = 0, 0.0
        self._last_step = dict.fromkeys(_ACCOUNTS, -UPDATES_EVERY)

    def spend(self, what: str, seconds: float, step: int) -> None:
        """`seconds` went at `step` into 'hooks', 'norms', 'updates', 'findings' or a 'trace'."""
        self._spent[what] += seconds
        if step == self._last_step[what]:
            self._last[what] += seconds
            return
        self._last[what], self._last_step[what] = seconds, step
        if what == "trace":
            self._num_traces += 1
            self._last_trace_s = self._elapsed()

    def may_measure(self, step: int) -> bool:
        """Whether the gradients' norms fit, or have not been taken for too long."""
        return self._fits("norms") or step - self._last_step["norms"] >= step / NORMS_PER_EFOLD

    def may_update(self, step: int) -> bool:
        """Whether weights and updates are wanted at `step`, and fit, or have not been measured for too long."""
        since = step - self._last_step["updates"]
        due = is_early(step) or since >= UPDATES_EVERY
        return due and (self._fits("updates") or since >= max(UPDATES_EVERY, step / UPDATES_PER_EFOLD))

    def may_trace(self, step: int, *, is_urgent: bool = False) -> bool:
        """Whether a whole trace is wanted at `step`, and fits; `is_urgent`: something has just happened."""
        if self._every is not None:
            return step - self._last_step["trace"] >= self._every or (is_early(step) and step < self._every)
        if is_early(step) and self._num_traces < TRACES_ON_CREDIT:
            return True
        last = self._last_step["trace"]
        if is_urgent and step >= URGENT_TRACES_APART * last:
            return True
        saved_up = self._elapsed() - self._last_trace_s >= self._last["trace"] / self.frac
        return step >= TRACES_APART * last > 0 or ((saved_up or step >= 2 * last) and self._fits("trace"))

    def may_judge(self) -> bool:
        """Whether there is time to look for findings."""
        return self._fits("findings")

    @property
    def spent_frac(self) -> float:
        """Of the time since the beginning, the fraction that looking took by its own account."""
        return sum(self._spent.values()) / max(self._elapsed(), 1e-9)

    def _fits(self, what: str) -> bool:
        elapsed = self._elapsed()
        allowance = self.frac * (elapsed + CREDIT_S / (1.0 + elapsed / (2.0 * CREDIT_S)))
        return self._spent[what] + self._last[what] <= SHARES[what] * (allowance - self._spent["hooks"])

    def _elapsed(self) -> float:
        return float(self._clock() - self._begun)


def is_early(step: int) -> bool:
    """0, 1, 2, 4, 8, ...

    >>> [step for step in range(20) if is_early(step)]
    [0, 1, 2, 4, 8, 16]
    """
    return step & (step - 1) == 0
