"""Which rows to pool, so that a run of any length stays within a number of bytes?

Rows stand on rungs: those that pool 1 step, 2 steps, 4, ... Where a rung holds more than `capacity` rows, its two
oldest become one on the next. N steps then take about capacity x log2(N / capacity) rows, and resolution halves with
every doubling of age.
"""

from __future__ import annotations

from collections import deque

MAX_BYTES = 160 * 2**20
"""What the rows of a run may take: a million steps of a thousand layers in less than 200 MB, with SQLite's pages."""

MAX_RUNGS = 20
"""A million times the capacity of one rung."""

MOST_ROWS = 16_384
"""Of a rung, however small the rows are: more is more than a screen can show."""


class Ladder:
    """The numbers of all rows by rung, the oldest first."""

    def __init__(self, capacity: int) -> None:
        self.capacity = max(2, capacity)
        self._rungs: list[deque[int]] = [deque()]

    def add(self, first: int, count: int = 1) -> None:
        """A row, later than all before it (or an older one that was there already, in ascending order)."""
        rung = count.bit_length() - 1
        while len(self._rungs) <= rung:
            self._rungs.append(deque())
        self._rungs[rung].append(first)

    def crowded(self) -> tuple[int, int] | None:
        """Two rows to pool, the older one first, taken off; None: there is room on every rung."""
        for rung in self._rungs:
            if len(rung) > self.capacity:
                return rung.popleft(), rung.popleft()
        return None

    def __len__(self) -> int:
        return sum(map(len, self._rungs))


def capacity_for(num_parameters: int, max_bytes: int = MAX_BYTES) -> int:
    """Rows to a rung, so that full rungs of rows of so many parameters take `max_bytes`.

    >>> capacity_for(1000), capacity_for(10)
    (347, 16384)
    """
    row_bytes = 2 * (3 * 4 * num_parameters + 5 * 8) + 64
    return max(32, min(MOST_ROWS, max_bytes // (MAX_RUNGS * row_bytes)))
