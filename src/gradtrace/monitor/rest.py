"""At rest, what happens is noted, and made into rows later: that is all that a step is longer for it.

Where a training has one optimizer, backward passes are not even noted: each of its steps is a row. Nor is each of them
timed, where they are short: after a step of a training nothing of ours is left in the processor's caches, and a look at
the clock and at the thread takes 6 microseconds there. They are counted, and one in so many is timed.
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
    from gradtrace.monitor.schedule.schedule import Ended, Schedule
    from gradtrace.monitor.step import Rows

PASS = None
"""Stands for a backward pass among the seats of optimizers."""

LOOK_EVERY, LOOK_EVERY_S, MOST_UNSEEN = 16, 0.05, 128
"""[steps, seconds, steps] One small tensor is looked at for a NaN: so seldom, of short steps, but not more seldom."""

TIMED_EVERY, TIMED_EVERY_S, TIMES_OF_REST = 32, 0.01, 8
"""[steps, seconds, times] The only optimizer's steps are timed: so seldom, of short ones, and so often in any rest."""


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
            only=self._rows.only,
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
            self._due = self._schedule.num_left
            short = min(TIMED_EVERY, TIMED_EVERY_S / max(self._schedule.cost.usual_s, 1e-9), self._due / TIMES_OF_REST)
            self._notes.plan(int(short), self._schedule.rest_until)
            self._look_again()

    def _told(self) -> list[Ended]:
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
        only: the seat of the only optimizer that there is, whose steps may be counted; None: each is noted.
    """

    def __init__(
        self,
        owner: Owner,
        look: Callable[[], None],
        of_stranger: Callable[[Optimizer], None],
        *,
        notes_passes: bool,
        only: int | None = None,
    ) -> None:
        self.notes_passes = notes_passes
        self._places, self._known = owner.places, owner.num_steps
        self._look, self._of_stranger = look, of_stranger
        self._only_key, self._only = only, owner.optimizer_at(only)
        self._thread = get_ident()
        self._until = math.inf
        self._notes: list[tuple[int | None, int, float]] = []
        """(seat, steps of its optimizer in a row, time [seconds] at which the last was over)."""
        self._timed_every = self._num_to_time = self._num_left = 1
        """[steps] From one that is timed to the next; from the latest to the next, and what is left of that."""
        self._num_to_look = 1

    def __len__(self) -> int:
        return sum(num for _, num, _ in self._notes) + self._num_counted

    @property
    def _num_counted(self) -> int:
        """Steps of the only optimizer since the latest that was noted."""
        return self._num_to_time - self._num_left

    def plan(self, timed_every: int, until: float) -> None:
        """Have every so manyth step of the only optimizer timed, the next one first; look once the time is `until`."""
        self._timed_every, self._until = max(1, timed_every), until

    def look_after(self, num: int) -> None:
        """Call `look` after so many steps more."""
        self._num_to_look = num
        self._num_to_time = self._num_left = 1

    def step(self, optimizer: Optimizer) -> None:
        """An optimizer has stepped."""
        if optimizer is self._only and self._num_left > 1:
            self._num_left -= 1
            return
        if get_ident() == self._thread and (key := self._places.get(id(optimizer))) in self._known:
            self.note(key)
        else:
            self._of_stranger(optimizer)

    def note(self, key: int) -> None:
        """The optimizer `key` has stepped."""
        now = time.perf_counter()
        if key != self._only_key:
            self._take_counted(now)
        num = self._num_counted + 1
        self._notes.append((key, num, now))
        self._num_to_look -= num
        self._num_to_time = self._num_left = max(1, min(self._timed_every, self._num_to_look))
        if self._num_to_look <= 0 or now > self._until:
            self._look()

    def backward(self) -> None:
        """There was a backward pass."""
        self._notes.append((PASS, 1, 0.0))

    def tell(self, rows: Rows, num_steps: dict[int, int]) -> list[Ended]:
        """Tell of what has been noted since the last time, and forget it.

        Adds the steps of each optimizer to `num_steps`. Returns when rows were complete.
        """
        self._take_counted(time.perf_counter())
        notes, self._notes = self._notes, []
        for key, num, _ in notes:
            if key is not PASS:
                num_steps[key] = num_steps.get(key, 0) + num
        keys = {key for key, _, _ in notes}
        if not self.notes_passes and len(keys) == 1 and rows.is_single:
            rows.steps(keys.pop(), sum(num for _, num, _ in notes))
            return [(num, now) for _, num, now in notes]
        return [(num, now) for key, steps, now in notes if (num := self._num_complete(rows, key, steps))]

    def _num_complete(self, rows: Rows, key: int | None, num: int) -> int:
        """Rows that are, by so many notes in a row."""
        complete = 0
        for _ in range(num):
            if key is PASS or (not self.notes_passes and key in rows.members):
                rows.backward()
            if key is not PASS:
                rows.step(key)
                complete += rows.is_complete
        return complete

    def _take_counted(self, now: float) -> None:
        """Steps that were only counted become a note."""
        if num := self._num_counted:
            self._notes.append((self._only_key, num, now))
            self._num_to_look -= num
            self._num_to_time = self._num_left
