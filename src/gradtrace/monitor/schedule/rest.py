"""At rest, what happens is noted with the time, and made into rows later: that is all that a step is longer for it."""

from __future__ import annotations

import time
from threading import get_ident
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from torch.optim import Optimizer

    from gradtrace.monitor.step import Rows

PASS = None
"""Stands for a backward pass among the keys of optimizers."""


class Rest:
    """One, in the thread that it begins in.

    Args:
        known: keys (`id`) of the optimizers whose steps count.
        until: [seconds] by `time.perf_counter`, when the rest is over in any case.
        look: called after so many notes as `look_after` says.
        tell_of: called with an optimizer that is not known, or steps in another thread.
        notes_passes: whether `Rows` must be told of backward passes to know the steps.
    """

    def __init__(
        self,
        known: Container[int],
        until: float,
        look: Callable[[], None],
        tell_of: Callable[[Optimizer], None],
        *,
        notes_passes: bool,
    ) -> None:
        self.notes_passes = notes_passes
        self._known, self._until, self._look, self._tell_of = known, until, look, tell_of
        self._thread = get_ident()
        self._keys: list[int | None] = []
        self._times: list[float] = []
        self._num_left = 1

    def look_after(self, num: int) -> None:
        """Call `look` after so many steps more."""
        self._num_left = num

    def step(self, optimizer: Optimizer) -> None:
        """An optimizer has stepped."""
        key = id(optimizer)
        if key in self._known and get_ident() == self._thread:
            self.note(key)
        else:
            self._tell_of(optimizer)

    def note(self, key: int) -> None:
        """The optimizer `key` has stepped."""
        now = time.perf_counter()
        self._keys.append(key)
        self._times.append(now)
        self._num_left -= 1
        if self._num_left <= 0 or now > self._until:
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
            if key is PASS or not self.notes_passes:
                rows.backward()
            if key is not PASS:
                rows.step(key)
                if rows.is_complete:
                    ended.append(now)
        return ended
