"""At rest, what happens is noted with the time, and made into rows later: that is all that a step is longer for it.

Where a training has one optimizer, backward passes are not even noted: each of its steps is a row.
"""

from __future__ import annotations

import math
import time
from threading import get_ident
from typing import TYPE_CHECKING

from gradtrace.monitor.schedule.cost import Level
from gradtrace.monitor.schedule.schedule import SHORTEST_REST

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer

    from gradtrace.monitor.hooks.guard import Guard
    from gradtrace.monitor.hooks.installed import Hooks
    from gradtrace.monitor.nonfinite.detector import Detector
    from gradtrace.monitor.owner import Owner
    from gradtrace.monitor.schedule.schedule import Schedule
    from gradtrace.monitor.step import Rows

PASS = None
"""Stands for a backward pass among the seats of optimizers."""

LOOK_EVERY, LOOK_EVERY_S, MOST_UNSEEN = 16, 0.05, 128
"""[steps, seconds, steps] One small tensor is looked at for a NaN: so seldom, of short steps, but not more seldom."""


class Rest:
    """A training's, time and again: from `begin` until `woken` is called."""

    def __init__(
        self, rows: Rows, schedule: Schedule, owner: Owner, detector: Detector, woken: Callable[[], None]
    ) -> None:
        self._rows, self._schedule, self._owner, self._detector = rows, schedule, owner, detector
        self._woken = woken
        self._notes: Notes | None = None
        self._first_step = 0
        """Of the run, in its own count."""
        self._due = 0
        """[notes] So many, and rows are made of them."""

    def hook(self, hooks: Hooks, guard: Guard) -> None:
        """What is to fall silent."""
        self._hooks, self._guard = hooks, guard

    @property
    def is_on(self) -> bool:
        """Whether nothing is done but to note steps."""
        return self._notes is not None

    def begin(self, step: int) -> None:
        """The row `step` was the last before it; whatever steps next begins another."""
        self._first_step = step - self._rows.number
        self._notes = notes = Notes(
            self._owner,
            lambda: self._guard(self._look),
            lambda optimizer: self._guard(self._of_stranger, optimizer),
            notes_passes=not self._rows.is_single,
        )
        self._plan()
        self._hooks.rest(notes.step, self._backward if notes.notes_passes else None)

    def note(self, key: int) -> None:
        """The optimizer `key` is through with a step in a way that is not noticed here."""
        if self._notes is not None:
            self._notes.note(key)

    def catch_up(self) -> bool:
        """Make rows of what was noted; whether the rest is over."""
        is_over = self.is_on and self._schedule.rested(self._told())
        self._due = max(1, self._schedule.num_left)
        return is_over

    def end(self, *, is_urgent: bool = False) -> None:
        """Of this rest, and, unless another follows at once, of resting."""
        self.catch_up()
        self._rows.close()
        self._schedule.end_rest(self._rows.number, is_urgent=is_urgent)

    def _plan(self) -> None:
        """A rest begins, perhaps right after another."""
        if self._notes is not None:
            is_long = self._schedule.num_left >= SHORTEST_REST
            self._detector.rest(self._first_step + self._rows.number, is_long=is_long)
            self._due, self._notes.until = self._schedule.num_left, self._schedule.rest_until
            self._look_again()

    def _told(self) -> list[float]:
        return self._notes.tell(self._rows, self._owner.num_steps) if self._notes is not None else []

    def _backward(self) -> None:
        if self._notes is not None and self._owner.is_here:
            self._notes.backward()

    def _of_stranger(self, optimizer: Optimizer) -> None:
        """A step of an optimizer that is new, or in another thread, where a training may go on: looked at afresh."""
        goes_on = self._owner.is_gone and self._owner.has_stepped(optimizer)
        num = len(self._owner.num_steps)
        if goes_on or self._owner.holds(optimizer):
            self.note(self._owner.seat_of(optimizer))
            is_made_anew = not goes_on and len(self._owner.num_steps) == num
            if self.is_on and not is_made_anew:
                self._wake(is_urgent=True)

    def _look(self) -> None:
        begun = time.perf_counter()
        is_ill = self._detector.sees_odd_gradient()
        if is_ill or self._num_notes >= self._due or begun > self._schedule.rest_until:
            is_over = self.catch_up()
            if self._rows.is_complete and (is_over or is_ill):
                self._wake(is_urgent=is_ill)
        self._look_again()
        self._schedule.spend("hooks", time.perf_counter() - begun)

    def _look_again(self) -> None:
        if self._notes is not None:
            short = min(LOOK_EVERY_S / max(self._schedule.cost.usual_s, 1e-9), MOST_UNSEEN)
            self._notes.look_after(max(1, min(self._due - self._num_notes, max(LOOK_EVERY, int(short)))))

    @property
    def _num_notes(self) -> int:
        return len(self._notes) if self._notes is not None else 0

    def _wake(self, *, is_urgent: bool) -> None:
        self.end(is_urgent=is_urgent)
        if self._schedule.level is Level.REST:
            self._plan()
        else:
            self._notes = None
            self._hooks.wake()
            self._woken()


class Notes:
    """Of one rest, in the thread that it begins in.

    Args:
        owner: whose optimizers' steps count.
        look: called after so many steps as `look_after` says.
        of_stranger: called with an optimizer that is not known, or steps in another thread.
        notes_passes: whether `Rows` must be told of backward passes to know the steps.
    """

    def __init__(
        self,
        owner: Owner,
        look: Callable[[], None],
        of_stranger: Callable[[Optimizer], None],
        *,
        notes_passes: bool,
    ) -> None:
        self.notes_passes = notes_passes
        self._places, self._known = owner.places, owner.num_steps
        self._look, self._of_stranger = look, of_stranger
        self.until = math.inf
        """[seconds] By `time.perf_counter`: the rest is over in any case."""
        self._thread = get_ident()
        self._keys: list[int | None] = []
        self._times: list[float] = []
        self._num_left = 1

    def __len__(self) -> int:
        return len(self._keys)

    def look_after(self, num: int) -> None:
        """Call `look` after so many steps more."""
        self._num_left = num

    def step(self, optimizer: Optimizer) -> None:
        """An optimizer has stepped."""
        key = self._places.get(id(optimizer))
        if key not in self._known or get_ident() != self._thread:
            self._of_stranger(optimizer)
            return
        now = time.perf_counter()  # and not by `note`: a call more, of code that is never in the cache
        self._keys.append(key)
        self._times.append(now)
        self._num_left -= 1
        if self._num_left <= 0 or now > self.until:
            self._look()

    def note(self, key: int) -> None:
        """The optimizer `key` has stepped."""
        now = time.perf_counter()
        self._keys.append(key)
        self._times.append(now)
        self._num_left -= 1
        if self._num_left <= 0 or now > self.until:
            self._look()

    def backward(self) -> None:
        """There was a backward pass."""
        self._keys.append(PASS)
        self._times.append(0.0)

    def tell(self, rows: Rows, num_steps: dict[int, int]) -> list[float]:
        """Tell of what has been noted since the last time, and forget it.

        Adds the steps of each optimizer to `num_steps`. Returns the times [seconds] at which rows were complete.
        """
        keys, times = self._keys, self._times
        self._keys, self._times = [], []
        for key in {*keys}:
            if key is not PASS:
                num_steps[key] = num_steps.get(key, 0) + keys.count(key)
        if not self.notes_passes and len({*keys}) == 1 and rows.is_single:
            rows.steps(keys[0], len(keys))
            return times
        ended = list[float]()
        for key, now in zip(keys, times, strict=True):
            if key is PASS or (not self.notes_passes and key in rows.members):
                rows.backward()
            if key is not PASS:
                rows.step(key)
                if rows.is_complete:
                    ended.append(now)
        return ended
