"""Which steps are reported next? Rank 0 says so, in a report that sets off anyway, and early enough for all to know."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from gradtrace.distributed.agreement import Agreement
from gradtrace.distributed.report.given import Decision

if TYPE_CHECKING:
    from collections.abc import Callable

USUAL_LAG, LAG_MARGIN, LAGS = 8, 2.0, 8
"""[steps, times, reports] How many steps a report is under way, before any has come back; a decision holds from so many
times the longest of the latest ones on."""


class NextStretch:
    """As this rank knows of it; `step` is always the next one."""

    def __init__(self, *, decides: bool) -> None:
        self.agreement = Agreement()
        self._decides = decides
        self.wish: Callable[[], Decision] = lambda: Decision(0, 0)
        """Which steps would be reported next, as rank 0's schedule would have it."""
        self.looks_ahead = False
        """Whether stretches follow each other without a gap."""
        self._wish: Decision | None = None
        self._is_decided = False
        """Whether a decision is under way."""
        self._issued: deque[int] = deque()
        self._lags: deque[int] = deque(maxlen=LAGS)

    def wish_for_more(self, step: int) -> None:
        """The known steps are coming to their end."""
        ahead = self.agreement.last - step
        if self._wish is None and not self._is_decided and ahead <= (self._margin if self.looks_ahead else 0):
            wish = self.wish()
            self._wish = wish if wish.num else None

    def decide(self, step: int) -> Decision | None:
        """A report sets off, in the thread of the correspondence."""
        if not self._decides:
            return None
        self._issued.append(step)
        wish, self._wish = self._wish, None
        if wish is None:
            return None
        self._is_decided = True
        return replace(wish, first=max(wish.first, step + self._margin))

    def report_is_back(self, step: int, decision: Decision | None) -> None:
        """With a decision in it, or none."""
        if decision is not None:
            self.agreement.learn(decision)
            self._is_decided = False
        if self._decides:
            self._lags.append(step - self._issued.popleft())

    @property
    def _margin(self) -> int:
        return int(2 + LAG_MARGIN * max(self._lags, default=USUAL_LAG))
