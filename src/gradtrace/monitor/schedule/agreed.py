"""What is done at the next step where several ranks train together? All of them measure at the same steps.

At any other step somebody would be measuring, and all would wait for it. Which steps those are, rank 0 decides as its
own budget allows (`distributed.agreement`); between them nobody takes norms.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gradtrace.distributed.agreement import OPENING
from gradtrace.distributed.report.given import Decision
from gradtrace.monitor.schedule.cost import Level
from gradtrace.monitor.schedule.schedule import LISTENING, SHORTEST, SHORTEST_REST, Schedule, is_early

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.monitor.ranks.ranks import Ranks

PATIENCE = 64
"""[steps] That the next stretch is awaited at every step; then now and then."""


class AgreedSchedule(Schedule):
    """Of one rank; `next_step` is the number of the step that has not begun yet."""

    def __init__(self, ranks: Ranks, next_step: Callable[[], int], budget: float, *others: Any, **options: Any) -> None:
        super().__init__(budget, *others, **options)
        self._ranks, self._next_step = ranks, next_step
        self.num_left = OPENING
        self._num_awaited = 0
        ranks.stretch.wish, ranks.stretch.looks_ahead = self._wish, self._never_rests

    def wants_updates(self, step: int) -> bool:
        """On all ranks at the same steps."""
        if self._ranks.is_alone:
            return self._ranks.reports and super().wants_updates(step)
        return self._ranks.agreement.wants_updates(step)

    def wants_trace(self, step: int, *, is_urgent: bool = False) -> bool:
        """On all ranks at the same steps, where nothing in it would speak to others; rank 0 alone as it is urgent."""
        reports = self._ranks.reports
        if self._ranks.shards.speaks:
            return False
        if self._ranks.is_alone:
            return reports and super().wants_trace(step, is_urgent=is_urgent)
        if self._every is not None:  # which all ranks were told
            return super().wants_trace(step)
        is_own = is_urgent or (is_early(step) and step < OPENING)
        is_wanted = reports and is_own and super().wants_trace(step, is_urgent=is_urgent)
        return is_wanted or self._ranks.agreement.wants_trace(step)

    def _steps_to_trace(self, step: int) -> float:
        traces = not self._ranks.shards.speaks and (self._ranks.reports or not self._ranks.is_alone)
        return super()._steps_to_trace(step) if traces else math.inf

    def _is_trace_due(self, step: int) -> bool:
        """Rank 0: as soon as a number of steps has doubled, or a share of the allowance has room."""
        if self._every is not None or self._ranks.shards.speaks:
            return False
        return super().wants_trace(step)

    def wants_findings(self) -> bool:
        """Rank 0 alone looks for any."""
        return self._ranks.reports and super().wants_findings()

    def _must_stop(self, step: int) -> bool:
        return self._ranks.is_alone and super()._must_stop(step)

    def _next(self, step: int) -> tuple[Level, int]:
        ranks = self._ranks
        ranks.poll()
        if ranks.is_alone:
            idle = Level.LISTEN if self._never_rests else Level.REST
            return super()._next(step) if ranks.reports else (idle, SHORTEST_REST)
        at = self._next_step()
        upcoming = ranks.agreement.upcoming(at)
        if upcoming is None:
            self._num_awaited += 1
            is_rare = self._num_awaited > PATIENCE and not self._never_rests
            return (Level.REST, SHORTEST_REST) if is_rare else (self._idle(), 1)
        self._num_awaited = 0
        first, num = upcoming
        return (Level.MEASURE, num) if first <= at else (self._between(), first - at)

    def _idle(self) -> Level:
        return Level.MEASURE if self._never_rests and self._ranks.reports else Level.LISTEN

    def _between(self) -> Level:
        if self._never_rests:
            return self._idle()
        listens = self.cost.of_step(Level.LISTEN) <= LISTENING * self._budget * self.cost.usual_s
        return Level.LISTEN if listens else Level.REST

    def _wish(self) -> Decision:
        """Rank 0: as its own schedule would have it."""
        at = self._next_step()
        level, num = super()._next(at)
        if level is Level.MEASURE:
            affordable = int(self._room_for_steps_s(at) / max(self.cost.of_step(level), 1e-12))
            first, num = at, min(num, max(SHORTEST, affordable))
        else:
            first, num = at + num, self._length(at + num)
        if self._never_rests:
            first, num = self._ranks.agreement.last + 1, max(num, 2 * OPENING)
        return Decision(first, num, super().wants_updates(first), self._is_trace_due(first))
