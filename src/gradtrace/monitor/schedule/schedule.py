"""What is done at the next step? Rest, listen or measure; copy the weights; trace it whole: as the allowance has room.

Steps come in stretches. In the opening all are measured. After it a stretch is measured as soon as the allowance has
room for it; until then the watch listens, where that is cheap beside the step, and rests where it is not. Between two
rests in a row it listens to one step, as far as a small part that is kept for it has room: how the loss fares decides
whether much else does harm. A short rest comes now and then in any case: without steps to compare with nobody would
know what watching costs. Stretches grow with the number of steps, so that a step is known to a few percent of its
number however long the run is.

Whole traces are wanted at step 0, as soon as the number of steps has doubled, and whenever a share of the allowance has
earned one: the latest is of the second half of a run, however short it is, where that share has room. What every step
takes leaves it. Where passes of k kinds are traced by turns, 2^(1/k) is enough once the opening is over: each kind has
its latest there. Weights and updates are wanted at steps 0, 1, 2, 4, 8, ... and then at every tenth.
"""

from __future__ import annotations

import math
import time
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from gradtrace.monitor.schedule.allowance import allowance_s
from gradtrace.monitor.schedule.cost import NOTED_S, Cost, Level, Spending

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OPENING = 64
"""[steps] Measured one and all, as far as what is lent allows: most faults lie there."""

SHORTEST, LONGEST, GROWTH = 8, 256, 1 / 256
"""[steps, steps, of the number of steps] How long a measured stretch is."""

COMPARED, COMPARED_EVERY, COMPARED_GROWTH = 6, 96, 1 / 8
"""[steps, steps, of the number of steps] A rest for comparison, and how far apart."""

IDLE_GROWTH, SHORTEST_REST = 1 / 16, 16
"""[of the number of steps, steps] The longest rest: so late is noticed at most what happens in one."""

LISTENING = 0.35
"""[fraction of the budget] What listening may take, or else the watch rests."""

HEARD = 0.1
"""[fraction of the allowance] Kept for listening to a step between two rests: how a run fares that rests is known."""

FITS = 0.7
"""[fraction of the budget] Where measuring every step takes less, every step is measured."""

NOTING = 0.5
"""[fraction of the budget] What noting steps at rest may take of it: where steps are so short that it takes more
(below 0.4 ms), there is as much again to see anything at all."""

SHARES = {"traces": 0.35, "updates": 0.1, "findings": 0.05}
"""[fraction of the allowance] Each may take so much: none can starve another."""

REST_STRETCHED = 4.0
"""[times what was planned] A rest that takes so much longer is over, whatever the number of its steps."""

UNCURBED = 0.5
"""[budget] Who gives half the time or more wants every step: there is no rest then."""

UPDATES_EVERY = 10
"""[steps] Between two measurements of weights and updates, which need a copy of the weights."""

URGENT_TRACES_APART = 1.25
"""[times the step of the last trace] Where the loss has just jumped, or a layer fallen behind, a trace is taken
whatever it costs: seldom."""


Ended: TypeAlias = tuple[int, float]
"""(steps, time [seconds] at which the last of them was over)."""


class Schedule:
    """Of one run; steps are numbered from 0 at its beginning.

    Args:
        budget: what watching may cost, as a fraction of the time.
        every: trace every so many steps, whatever that costs; None: as the budget allows.
        measures_always: every step must be looked at, whatever that costs.
        clock: in seconds.
    """

    def __init__(
        self,
        budget: float,
        every: int | None = None,
        *,
        measures_always: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.cost = Cost()
        self.level = Level.MEASURE
        """Of the step at hand."""
        self.num_left = OPENING
        """Steps until another level may begin."""
        self.num_kinds = 1
        """Of passes that are traced by turns."""
        self._whole_budget, self._every, self._clock = budget, every, clock
        self._never_rests = measures_always or budget >= UNCURBED
        self._is_mixed = False
        self._ended = clock()
        self._last = dict.fromkeys(SHARES, -UPDATES_EVERY)
        """[step] When each was done the last time."""
        self._compared_at = 0
        self._heard_at = 0
        """[step] When the latest step that was no rest's was over."""
        self._heard_s = 0.0
        """[seconds] What listening between two rests has taken."""
        self._times: list[Ended] = []
        """Of the steps of the rest at hand."""
        self.rest_until = math.inf
        """[seconds] By the clock, however few the steps: they have become far longer."""
        self._traced_s = 0.0
        """[seconds of training] When the last trace was taken."""

    def spend(self, part: str, seconds: float) -> None:
        """`seconds` went at the step at hand into 'hooks', 'norms', 'updates', 'findings', 'walks' or 'traces'."""
        self.cost.spend(part, seconds)

    def spending(self, part: str) -> Spending:
        """What goes on within it is such a part."""
        return Spending(self.cost, part)

    def done(self, part: str, step: int) -> None:
        """Updates, a trace or findings were taken at `step`."""
        self._last[part] = step
        if part == "traces":
            self._traced_s = self.cost.training_s

    # --------------------------------------------------------------------------------------------------- whole steps

    def step_ended(self, step: int) -> None:
        """Step `step` is over: `level` is the next one's from now on."""
        now = self._clock()
        self.cost.step_ended(now - self._ended, self.level, is_mixed=self._is_mixed)
        self._ended, self._is_mixed = now, False
        self.num_left -= 1
        if self.num_left <= 0 or (self.level is Level.MEASURE and self._must_stop(step)):
            self._begin_stretch(step + 1)

    def rested(self, ended: Sequence[Ended]) -> bool:
        """Steps at rest ended, and nothing else was done about them; is the rest over, too?

        The first step of a rest is told by itself: within it the level has changed.
        """
        self._times += ended
        self.num_left -= sum(num for num, _ in ended)
        return self.num_left <= 0 or (bool(ended) and ended[-1][1] > self.rest_until)

    def end_rest(self, step: int, *, is_urgent: bool = False) -> None:
        """`step` is the next one; `is_urgent`: something has been noticed, so that it is measured."""
        if self._times:
            (_, first), *others = (
                (num, now - before) for (_, before), (num, now) in pairwise([(0, self._ended), *self._times])
            )
            self.cost.step_ended(first, Level.REST, is_mixed=self._is_mixed)
            self.cost.steps_at_rest(others)
            self._ended, self._is_mixed = self._times[-1][1], False
        self._times.clear()
        if is_urgent:
            self.cost.end_stretch(self.level)
            self.level, self.num_left, self._is_mixed = Level.MEASURE, SHORTEST, True
        else:
            self._begin_stretch(step)

    def _begin_stretch(self, step: int) -> None:
        level, num = self._next(step)
        if level is Level.REST:
            due = self._steps_to_trace(step)
            level, num = (level, int(min(num, due))) if due > 0 else (Level.LISTEN, 1)
        if level is not self.level:
            self.cost.end_stretch(self.level)
            self._is_mixed = True
        if self.level is not Level.REST:
            self._heard_at = step
        if level is Level.REST:
            self._compared_at = step + num
        self.level, self.num_left = level, num
        self.rest_until = self._ended + REST_STRETCHED * num * self.cost.usual_s

    def _must_stop(self, step: int) -> bool:
        """Whether the stretch at hand, which is measured, has become too dear."""
        return not self._never_rests and self._room_for_steps_s(step) < 0.0

    @staticmethod
    def _length(step: int) -> int:
        return int(min(max(SHORTEST, step * GROWTH), LONGEST))

    def _next(self, step: int) -> tuple[Level, int]:
        cost = self.cost
        length = self._length(step)
        if self._never_rests:
            return Level.MEASURE, length
        room, of_step = self._room_for_steps_s(step), cost.of_step(Level.MEASURE)
        if step < OPENING and room >= of_step:
            return Level.MEASURE, OPENING - step
        if step - self._compared_at >= max(COMPARED_EVERY, step * COMPARED_GROWTH):
            return Level.REST, COMPARED
        if self.level is Level.REST and self._every is None and self._has_doubled(step) and self._fits("traces", step):
            return Level.LISTEN, 1
        earned = self._budget * cost.usual_s  # by a step
        affordable = int(min(length, room / max(of_step, 1e-12)))
        if affordable >= SHORTEST and (self.level is not Level.MEASURE or of_step <= FITS * earned):
            return Level.MEASURE, affordable
        of_listening, idle = cost.of_step(Level.LISTEN), self._idle()
        if self.level is idle is Level.REST:
            unheard = step - self._heard_at
            if unheard >= max(SHORTEST_REST, step * IDLE_GROWTH) and of_listening <= self._left_to_hear_s():
                self._heard_s += of_listening
                return Level.LISTEN, 1
        wanted = (of_step * length - room) / max(earned - cost.of_step(idle), 0.1 * earned, 1e-12)
        return idle, int(min(max(SHORTEST, wanted), max(SHORTEST_REST, step * IDLE_GROWTH)))

    @property
    def _budget(self) -> float:
        """What is left beside noting: all that can be decided about."""
        noting = NOTED_S / self.cost.usual_s if self.cost.usual_s else 0.0
        return self._whole_budget - min(noting, NOTING * self._whole_budget)

    def _idle(self) -> Level:
        """Of steps that are not measured."""
        of_listening = self.cost.of_step(Level.LISTEN)
        return Level.LISTEN if of_listening <= LISTENING * self._budget * self.cost.usual_s else Level.REST

    def _room_s(self) -> float:
        spent_s = self.cost.spent_s - self.cost.noted_s - sum(self.cost.first.values())
        return allowance_s(self.cost.training_s, self._budget) - spent_s

    def _room_for_steps_s(self, step: int) -> float:
        """Less what is kept to listen, and what a trace takes that is wanted or soon will be, as its share has that."""
        room_s = self._room_s() - self._left_to_hear_s()
        if self._every is not None or not (step < OPENING or self._has_doubled(step)):
            return room_s
        return room_s - min(max(self._left_s("traces"), 0.0), self.cost.last["traces"])

    def _left_to_hear_s(self) -> float:
        """Nothing where there is no rest to keep it for."""
        if self._idle() is not Level.REST:
            return 0.0
        return max(HEARD * allowance_s(self.cost.training_s, self._budget) - self._heard_s, 0.0)

    # ------------------------------------------------------------------------------------- what not every step has

    def wants_updates(self, step: int) -> bool:
        """Whether weights and updates are measured at `step`, which is."""
        since = step - self._last["updates"]
        return (is_early(step) or since >= UPDATES_EVERY) and self._fits("updates", step)

    def wants_trace(self, step: int, *, is_urgent: bool = False) -> bool:
        """Whether `step` is traced whole; `is_urgent`: something has just happened."""
        last = self._last["traces"]
        if self._every is not None:
            return step - last >= self._every or (is_early(step) and step < self._every)
        if step == 0 or (is_urgent and step >= URGENT_TRACES_APART * max(last, 1)):
            return True
        saved_up = self.cost.training_s - self._traced_s >= self.cost.last["traces"] / (SHARES["traces"] * self._budget)
        return (self._has_doubled(step) or saved_up) and self._fits("traces", step)

    def _has_doubled(self, step: int) -> bool:
        """The number of steps, since the latest trace of each kind."""
        last = self._last["traces"]
        return step > last and step >= last * 2.0 ** (1.0 / self.num_kinds if step >= OPENING else 1.0)

    def _steps_to_trace(self, step: int) -> float:
        """So many may be rested through: where traces were asked for, none is missed."""
        return math.inf if self._every is None else self._last["traces"] + self._every - step

    def wants_findings(self) -> bool:
        """Whether there is time to look for findings."""
        return self._fits("findings", 1)

    def _fits(self, part: str, step: int) -> bool:
        """Within its share and within the whole; of what was never done nobody knows the cost."""
        if self._never_rests or step == 0:
            return True
        return self.cost.last[part] <= min(self._left_s(part), self._room_s())

    def _left_s(self, part: str) -> float:
        """Of its share."""
        spent_s = self.cost.account[part] - self.cost.first[part]
        return SHARES[part] * allowance_s(self.cost.training_s, self._budget) - spent_s


def is_early(step: int) -> bool:
    """0, 1, 2, 4, 8, ...

    >>> [step for step in range(20) if is_early(step)]
    [0, 1, 2, 4, 8, 16]
    """
    return step & (step - 1) == 0
