"""Has a layer's gradient fallen far behind that of the others, or is none left? Then a step is traced, at any cost.

A trace now and then knows the cause, the norms of every step know when to look: a network that was well at its first
trace may lose its gradient within a few steps, and where a trace is dear the next one would come too late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FALLEN, ALIKE = 3.0, 2.0
"""[decades] What is clear-cut for a verdict (`diagnosis.thresholds`) is worth a look; and of layers whose gradients lie
so close together at the start the one that kept most is what the others are held against: a layer that starts next to
nothing by design and then grows leaves nobody behind."""

IN_A_ROW = 5
"""[rows] Sparse layers have steps without a gradient."""


class Falls:
    """Of one run's gradient norms, row by row; a NaN says nothing here, and a zero only where there is nothing else.

    >>> falls = Falls()
    >>> rows = [[1.0, 1.0], *[[1e-4, 1.0]] * 5, *[[1e-8, 1e-4]] * 5, *[[1e-8, 1e-1]] * 5]
    >>> [row for row, norms in enumerate(rows) if falls.is_one(np.array(norms))]
    [5, 15]
    >>> [row for row, norms in enumerate([1.0, *[0.0] * 20]) if falls.is_one(np.full(2, norms))]
    [5]
    """

    def __init__(self) -> None:
        self._start: NDArray[np.float64] = np.empty(0)
        """[decades] Of the first row, then of the row of the last fall."""
        self._num = 0
        self._num_silent, self._most_silent = np.inf, IN_A_ROW
        """Rows in a row without any gradient, and how many are worth a look; inf: none was heard since the last one."""

    def is_one(self, norms: NDArray[np.floating]) -> bool:
        """Whether these norms, one a weight, are the last of `IN_A_ROW` in which one has fallen behind, or all have."""
        return self._is_silent(norms) or self._is_behind(norms)

    def _is_silent(self, norms: NDArray[np.floating]) -> bool:
        if np.nanmax(norms, initial=0.0) > 0.0:
            self._num_silent = 0  # (a margin that most batches have reached is silent time and again)
        elif np.any(norms == 0.0):
            self._num_silent += 1
            if self._num_silent == self._most_silent:
                self._num_silent, self._most_silent = np.inf, 2 * self._most_silent
                return True
        return False

    def _is_behind(self, norms: NDArray[np.floating]) -> bool:
        with np.errstate(divide="ignore", invalid="ignore"):
            now = np.log10(np.asarray(norms, np.float64))
        now[~np.isfinite(now)] = np.nan
        if len(now) != len(self._start):
            self._start, self._num = now, 0
            return False
        lost = self._start - now
        near = self._start >= np.nanmax(self._start, initial=-np.inf) - ALIKE
        kept = np.nanmin(np.where(near, lost, np.nan), initial=np.inf)
        self._num = self._num + 1 if np.nanmax(lost, initial=-np.inf) >= max(kept, 0.0) + FALLEN else 0
        self._start = np.where(np.isnan(self._start), now, self._start)
        if self._num < IN_A_ROW:
            return False
        self._start, self._num = now, 0
        return True
