"""Rows wait in their order for what the ranks have to say of them; where that does not come in time, they go alone."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.distributed.report.merged import Merged
    from gradtrace.monitor.ranks.global_row import Row

MOST_HELD, FEW, HELD_S = 256, 4, 20.0
"""[rows, rows, seconds] A row waits for the other ranks while so few have come after it; or so long, if that is more
than a few steps."""


class HeldRows:
    """Of rank 0; `record` takes each of them in turn."""

    def __init__(self, record: Callable[[Row], None]) -> None:
        self._record = record
        self._held: deque[Row] = deque()

    def hold(self, row: Row) -> None:
        """The latest one."""
        self._held.append(row)

    def merged(self, step: int, merged: Merged) -> None:
        """The report of `step` is back."""
        for row in self._held:
            if row.step == step:
                row.merged = merged

    def release(self, *, waits: bool) -> None:
        """Those that wait for nothing, and with `waits` False all."""
        while self._held:
            row = self._held[0]
            is_waiting = not math.isnan(row.since) and row.merged is None and waits
            is_old = time.perf_counter() - row.since > HELD_S and len(self._held) > FEW
            if is_waiting and not is_old and len(self._held) <= MOST_HELD:
                return
            self._held.popleft()
            self._record(row)
