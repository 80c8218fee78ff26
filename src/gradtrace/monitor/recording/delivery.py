"""The numbers of a row, from where they were taken to the recording, some steps late where a device is ahead."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from gradtrace.monitor.ranks.global_row import Row
from gradtrace.monitor.schedule.falls import Falls
from gradtrace.monitor.statistics.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.monitor.ranks.ranks import Ranks
    from gradtrace.monitor.recording.recording import Recording
    from gradtrace.monitor.statistics.gradients import Numbers

RECEIVED_TOGETHER, RECEIVE_EVERY_S = 16, 0.25
"""[steps, seconds] Numbers are kept waiting: what is done to many in a row is done while its code is in the cache."""


class Delivery:
    """Of one run, to its recording; past the other `ranks`, where there are any."""

    def __init__(self, recording: Recording, ranks: Ranks | None = None) -> None:
        self._recording, self._ranks = recording, ranks
        self._transfer = Transfer()
        if ranks is not None:
            ranks.num_under_way = self._transfer.__len__
        self._next = recording.first_step
        """The step after the last one that was sent."""
        self._began = self._last_received = time.perf_counter()
        self._falls = Falls()
        self.has_fallen = False
        """Whether a layer's gradient has fallen far behind that of the others, since somebody put this back."""

    def send(self, step: int, blocks: Sequence[Numbers], *, counts: bool) -> None:
        """A row sets off; `counts`: a NaN or Inf among its numbers is none of a scaler that finds its scale."""
        self._next, now = step + 1, time.perf_counter()
        first, *others = blocks
        for other in others:
            first.absorb(other)
        if first.holds_weights:
            first.compare_weights()
        rate = max((one.learning_rate for one in blocks if not math.isnan(one.learning_rate)), default=math.nan)
        self._transfer.send((step, now - self._began, rate, counts, first.is_bad), first.vectors())

    def send_end(self, step: int, loss: float | None = None, *, is_bad: bool = False) -> None:
        """Of the last step, if it has not been sent, nothing is known but that it was, or that something is not finite.

        `loss`: one that is not.
        """
        if step < self._next:
            return
        what = step, time.perf_counter() - self._began, math.nan, True, is_bad or loss is not None
        self._transfer.send(what, [loss, *[None] * 8])

    def receive_now_and_then(self) -> None:
        """Keep what has arrived, if that is much or has waited for long."""
        is_late = time.perf_counter() - self._last_received > RECEIVE_EVERY_S
        if is_late or len(self._transfer) >= RECEIVED_TOGETHER or self._ranks is not None:
            self.receive()

    def receive(self, *, wait: bool = False) -> None:
        """Keep what has arrived."""
        self._last_received = time.perf_counter()
        for what, arrived in self._transfer.arrived(len(self._transfer) if wait else 0):
            step, seconds, learning_rate, counts, bad = what
            if self._ranks is not None:
                self._ranks.row(Row(step, seconds, arrived, learning_rate, counts, bad))
            else:
                self._look(arrived[1])
                self._recording.numbers(step, seconds, arrived, learning_rate, counts=counts, bad=bad)
        if self._ranks is not None:
            self._ranks.poll()

    def _look(self, norms: Any) -> None:
        if isinstance(norms, np.ndarray):
            self.has_fallen |= self._falls.is_one(norms[self._recording.is_matrix[: len(norms)]])
