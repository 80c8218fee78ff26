"""Which steps are reported, and how do all ranks know without waiting for each other?

Reports are numbered by the order in which they are given, the same on every rank: first those of the opening, then
stretches that rank 0 decides on, one after the other. A decision travels in a report and holds as soon as that has come
back, at every rank. Who learns of it too late gives nothing for the steps that are over: that report is incomplete, and
nobody waits for ever.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradtrace.distributed.report.given import Decision

OPENING = 16
"""[steps] That are reported from the beginning, one and all."""

MOST_KNOWN = 4096
"""[steps] A decision for more was not made by this version of gradtrace."""


class Agreement:
    """What this rank knows of it; steps are its own, from 0.

    >>> agreement = Agreement(opening=3)
    >>> agreement.upcoming(0), agreement.take(0), agreement.upcoming(1)
    ((0, 3), True, (1, 2))
    >>> agreement.pass_over(3), agreement.upcoming(3)
    (2, None)
    >>> from gradtrace.distributed.report.given import Decision
    >>> agreement.learn(Decision(10, 2)); agreement.upcoming(5)
    (10, 2)
    """

    def __init__(self, opening: int = OPENING) -> None:
        self._steps = deque(range(opening))
        """Of reports that this rank has not given yet."""
        self._with_updates = {step for step in range(opening) if step & (step - 1) == 0}
        self._traced = {0}
        self.last = opening - 1
        """Of all reports that are known."""

    def learn(self, decision: Decision) -> None:
        """Of the next stretch."""
        first = max(decision.first, self.last + 1)
        self._steps.extend(range(first, first + min(decision.num, MOST_KNOWN)))
        self.last = self._steps[-1]
        if decision.updates:
            self._with_updates.add(first)
        if decision.traces:
            self._traced.add(first)

    def upcoming(self, step: int) -> tuple[int, int] | None:
        """The first step to report from `step` on, and how many there are in a row; None: nobody knows yet."""
        ahead = [one for one in self._steps if one >= step]
        if not ahead:
            return None
        num = next((i for i, one in enumerate(ahead) if one != ahead[0] + i), len(ahead))
        return ahead[0], num

    def wants_updates(self, step: int) -> bool:
        """Whether weights and updates are measured at `step`."""
        return step in self._with_updates

    def wants_trace(self, step: int) -> bool:
        """Whether every rank takes a whole trace of `step`."""
        return step in self._traced

    def pass_over(self, step: int) -> int:
        """Steps before `step` are over: so many reports get nothing from this rank."""
        num = 0
        while self._steps and self._steps[0] < step:
            self._leave(self._steps.popleft())
            num += 1
        return num

    def take(self, step: int) -> bool:
        """Whether the next report is of `step`, which is given now."""
        if not self._steps or self._steps[0] != step:
            return False
        self._leave(self._steps.popleft())
        return True

    def _leave(self, step: int) -> None:
        self._with_updates.discard(step)
        self._traced.discard(step)
