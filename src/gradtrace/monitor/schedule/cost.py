"""What does watching cost? The truth is the wall clock: whole steps with it beside whole steps without.

Steps come in stretches, each at one level. Of three stretches in a row of which the outer two are alike,

    d = median(middle) - (median(first) + median(last)) / 2

is what the level in the middle adds, whatever the speed of the training drifts to meanwhile, as long as it does so
evenly. The median of all such differences is what a step at that level costs; until there are enough of them it is
blended with what the watch's own clock says, times what usually hides from it. A whole trace, a copy of the weights, a
look for findings and a walk through the tape are too seldom for that: they count with the time they took.
"""

from __future__ import annotations

import time
from collections import deque
from enum import IntEnum
from statistics import median
from typing import TYPE_CHECKING

from gradtrace.records.run import WatchCost

if TYPE_CHECKING:
    from collections.abc import Sequence


class Level(IntEnum):
    """How much is done at a step."""

    REST = 0
    """Next to nothing: the end of a step is counted."""
    LISTEN = 1
    """The loss is read, and what it takes to explain a NaN is held."""
    MEASURE = 2
    """The norms of all gradients are taken, too."""


PARTS = ("hooks", "norms", "updates", "traces", "findings", "walks")

EVERY_STEP = ("hooks", "norms")
"""Parts that each step of a level has."""

SELDOM = ("updates", "traces", "findings", "walks")
"""Those that few have: a walk through the tape is one step's in two, four, eight."""

HIDDEN = 1.5
"""[times] What is displaced in caches and allocators and falls on the training's own lines: measured as 1.3 to 1.6."""

NOTED_S = 4e-6
"""[seconds] Two hooks and a count, at each step at rest: no clock of ours sees them, and there are no steps without to
set beside them. Measured as 3 to 4.5 at 0.4 ms a step, where nothing of ours is left in the processor's caches."""

ENOUGH = 8
"""[comparisons] That weigh as much as the watch's own clock."""

KEPT = 63
"""[comparisons] The latest: a training may change its speed, and what watching costs."""

MOST_COMPARED = 64
"""[steps] Of a stretch, the latest, whose median counts."""

SHORTEST_COMPARED = 4
"""[steps] A stretch of fewer has no median worth the name."""

CHANGED = 5
"""[steps] So many pauses in a row are none."""

PAUSE = 8.0
"""[times a usual step] A step that takes longer was a pause, or held one."""

EARLY, EARLY_PACE, PACE = 64, 1.1, 1.02
"""[steps, times, times] The running median moves so far at a step, among the first ones and later."""

FURTHEST = 1000
"""[steps] After so many it has reached any other: 400 million times as much."""


class Cost:
    """The account of one run.

    >>> cost = Cost()
    >>> for level, seconds in 5 * [(Level.REST, 1.0), (Level.MEASURE, 1.1)]:
    ...     for _ in range(8):
    ...         cost.step_ended(seconds, level)
    ...     cost.end_stretch(level)
    >>> round(cost.of_step(Level.MEASURE), 2), round(cost.spent_s, 1)
    (0.05, 2.0)
    """

    def __init__(self) -> None:
        self.training_s = 0.0
        """Of steps, what watching took and pauses left out."""
        self.usual_s = 0.0
        """Of a step without us: a running median."""
        self.rows = dict.fromkeys(Level, 0)
        self.last = dict.fromkeys(PARTS, 0.0)
        """[seconds] The latest time that a part took."""
        self.account = dict.fromkeys(PARTS, 0.0)
        """[seconds] By our own clock, over the run."""
        self.first = dict.fromkeys(PARTS, 0.0)
        """[seconds] Of that, the first time, whose cost nobody could know before."""
        self._of_level = {level: dict.fromkeys(EVERY_STEP, 0.0) for level in Level}
        self._of_row = dict.fromkeys(PARTS, 0.0)
        self._num_rows = 0
        self._switched_s = 0.0
        """By how much the steps in which the level changed were longer than usual, and no clock of ours saw it."""
        self._slow: list[float] = []
        """The latest steps, if they were all far longer than usual."""
        self._durations: deque[float] = deque(maxlen=MOST_COMPARED)
        self._stretches: deque[tuple[Level, float]] = deque(maxlen=3)
        self._differences: dict[tuple[Level, Level], deque[float]] = {}
        self._known: dict[tuple[Level, Level], float] = {}

    def spend(self, part: str, seconds: float) -> None:
        """`seconds` went into a part at this step, by our own clock."""
        self._of_row[part] += seconds

    def step_ended(self, seconds: float, level: Level, *, is_mixed: bool = False) -> None:
        """A step took `seconds`, all told; `is_mixed`: the level changed within it."""
        own = self._of_row
        every_step = own["hooks"] + own["norms"]
        if own["traces"] and self.usual_s:  # in hooks, between the user's own ops, a trace takes as much again
            own["traces"] = min(max(own["traces"], seconds - self.usual_s - every_step), 4.0 * own["traces"])
        seldom = sum(own[part] for part in SELDOM)
        bare = max(seconds - every_step - seldom, 0.0)
        if is_mixed and self.usual_s:
            self._switched_s += min(bare, PAUSE * self.usual_s) - self.usual_s
            bare = min(bare, self.usual_s)
        if not own["traces"]:
            self._learn(bare)
        self.training_s += min(bare, PAUSE * self.usual_s) if self.usual_s else bare
        self.rows[level] += 1
        if not (is_mixed or seldom or bare > PAUSE * self.usual_s):
            self._durations.append(seconds)
        for part in PARTS if every_step or seldom else ():
            if spent := own[part]:
                if part not in EVERY_STEP and not self.account[part]:
                    self.first[part] = spent
                self.account[part] += spent
                self.last[part] = spent
                if part in EVERY_STEP:
                    self._of_level[level][part] += spent
                own[part] = 0.0

    def steps_at_rest(self, spans: Sequence[tuple[int, float]]) -> None:
        """So many steps at rest took so many seconds, one span after the other; nothing was spent into any part."""
        if not spans:
            return
        each = [seconds / num for num, seconds in spans]
        num_steps = sum(num for num, _ in spans)
        usual, longest = median(each), PAUSE * self.usual_s
        for one in each[-CHANGED:]:
            self._slow = [*self._slow, one] if one > longest / 2.0 else []
        if len(self._slow) >= CHANGED:
            self.usual_s, self._slow = min(self._slow), []
        else:  # as far towards their median as one by one would go
            most = PACE ** min(num_steps, FURTHEST)
            self.usual_s = min(max(usual, self.usual_s / most), self.usual_s * most)
        longest = max(longest, PAUSE * self.usual_s)
        self._num_rows += num_steps
        self.training_s += sum(min(seconds, longest + (num - 1) * self.usual_s) for num, seconds in spans)
        self.rows[Level.REST] += num_steps
        self._durations.extend(one for one in each if one <= longest)

    def end_stretch(self, level: Level) -> None:
        """Another level begins: compare, where three stretches allow it."""
        if len(self._durations) >= SHORTEST_COMPARED:
            self._stretches.append((level, median(self._durations)))
            if len(self._stretches) == 3:
                (first, a), (middle, b), (last, c) = self._stretches
                if first is last is not middle:
                    self._differ(middle, first, b - (a + c) / 2.0)
        else:
            self._stretches.clear()
        self._durations.clear()

    def of_step(self, level: Level) -> float:
        """[seconds] What a step at this level is longer than one at rest; of that, what it takes beside being noted."""
        if level is Level.REST:  # beside which nothing can be set that would show what hides
            return HIDDEN * self._clock_s(level)
        switching = self._switching_s / max(self.rows[Level.LISTEN] + self.rows[Level.MEASURE], 1)
        steps = [(level, Level.REST)]
        if level is Level.MEASURE and self._weight(steps[0]) < self._weight((Level.MEASURE, Level.LISTEN)):
            steps = [(Level.MEASURE, Level.LISTEN), (Level.LISTEN, Level.REST)]
        return switching + sum(self._added_s(*pair) for pair in steps)

    @property
    def num_compared(self) -> int:
        """Comparisons that the numbers rest on."""
        return sum(len(known) for known in self._differences.values())

    @property
    def spent_s(self) -> float:
        """What watching has taken so far."""
        return sum(self.rows[level] * self.of_step(level) for level in Level) + self.seldom_s + self.noted_s

    @property
    def noted_s(self) -> float:
        """Of that, what it takes to note steps at rest."""
        return NOTED_S * self.rows[Level.REST]

    @property
    def seldom_s(self) -> float:
        """Of that, what not every step has."""
        return sum(self.account[part] for part in SELDOM)

    @property
    def _switching_s(self) -> float:
        """What it has taken to change the level: a rest has no part in it."""
        return max(self._switched_s, 0.0)

    def record(self) -> WatchCost:
        """The whole, and its split: what every step has in the proportions of our own clock."""
        whole = self.spent_s
        clock = {part: sum(self._of_level[level][part] for level in Level) for part in EVERY_STEP}
        scale = (whole - self.seldom_s) / max(sum(clock.values()), 1e-12)
        parts = tuple((part, clock[part] * scale if part in clock else self.account[part]) for part in PARTS)
        return WatchCost(self.training_s + whole, whole, parts, self.num_compared)

    def _learn(self, bare: float) -> None:
        """A median that runs: a small step up where a duration is above it, down where it is below."""
        self._num_rows += 1
        self._slow = [*self._slow, bare] if bare > PAUSE * self.usual_s / 2.0 else []
        if len(self._slow) == CHANGED:  # no pause, but longer steps from now on
            self.usual_s, self._slow = min(self._slow), []
        elif self._num_rows <= 3:  # the first steps of a process are not like those to come
            self.usual_s = min(self.usual_s, bare) if self.usual_s else bare
        else:
            pace = EARLY_PACE if self._num_rows < EARLY else PACE
            self.usual_s *= pace if bare > self.usual_s else 1.0 / pace

    def _differ(self, more: Level, less: Level, seconds: float) -> None:
        if more < less:
            more, less, seconds = less, more, -seconds
        known = self._differences.setdefault((more, less), deque(maxlen=KEPT))
        known.append(seconds)
        self._known[more, less] = median(known)

    def _weight(self, pair: tuple[Level, Level]) -> float:
        num = len(self._differences.get(pair, ()))
        return num / (num + ENOUGH)

    def _added_s(self, more: Level, less: Level) -> float:
        """Never less than our own clock says."""
        clock, weight = max(self._clock_s(more) - self._clock_s(less), 0.0), self._weight((more, less))
        return max(clock, weight * self._known.get((more, less), 0.0) + (1.0 - weight) * HIDDEN * clock)

    def _clock_s(self, level: Level) -> float:
        if level is Level.LISTEN and not self.rows[level]:  # not tried yet: the same without the norms
            return self._of_level[Level.MEASURE]["hooks"] / max(self.rows[Level.MEASURE], 1)
        return sum(self._of_level[level].values()) / max(self.rows[level], 1)


class Spending:
    """What goes on within it is a part of what watching costs.

    >>> cost = Cost()
    >>> with Spending(cost, "norms"):
    ...     _ = sum(range(1000))
    >>> cost.step_ended(1.0, Level.MEASURE)
    >>> 0.0 < cost.account["norms"] < 1.0
    True
    """

    __slots__ = ("_begun", "_cost", "_part")

    def __init__(self, cost: Cost, part: str) -> None:
        self._cost, self._part = cost, part

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._cost.spend(self._part, time.perf_counter() - self._begun)
