"""What a step's row says: the numbers of all ranks together where they are known, else those of this one.

Of a parameter of which a part lies here, this rank by itself says nothing: a part's norm is never called the norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradtrace.distributed.report.merged import Merged
    from gradtrace.monitor.statistics.transfer import Arrived


@dataclass(slots=True)
class Row:
    """As it was taken here."""

    step: int
    """In the run's own count."""
    seconds: float
    arrived: Arrived
    learning_rate: float
    counts: bool
    bad: bool
    since: float = math.nan
    """By the clock; NaN: nobody else is asked about it."""
    merged: Merged | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """Those of all ranks, as this one has them: its own first, then what only others hold, then what has joined."""

    num_own: int
    num_foreign: int
    is_part: NDArray[np.bool_]
    """[own columns]: whether what lies here may not be called the whole."""
    late: NDArray[np.bool_] | None = None
    """[columns of the latest report]: whether gradients are averaged only after the backward pass."""

    def of_this(self, arrived: Arrived) -> tuple[Arrived, bool]:
        """What this rank may say by itself, and whether that is of all parameters."""
        gradients, clipped = arrived[1:3]
        if self.late is not None and isinstance(gradients, np.ndarray) and isinstance(clipped, np.ndarray):
            num = min(len(gradients), len(clipped), len(self.late))
            averaged = np.where(self.late[:num], clipped[:num], gradients[:num])
            arrived = [arrived[0], np.concatenate([averaged, gradients[num:]]), *arrived[2:]]
        found = [self._placed(_without(v, self.is_part)) if 1 <= i <= 4 else v for i, v in enumerate(arrived)]
        return found, not (self.is_part.any() or self.num_foreign)

    def of_all(self, own: Arrived, merged: Merged) -> Arrived:
        """What all of them say; this rank's own where they are not the same."""
        alone = self.of_this(own)[0]
        found = [merged.gradients, merged.clipped, merged.weights, merged.moved]
        if not isinstance(own[3], np.ndarray):
            found[2:] = []
        mine = [alone[1], alone[2] if alone[2] is not None else alone[1], *alone[3:5]]
        whole = [_completed(vector, one, merged.differ) for vector, one in zip(found, mine, strict=False)]
        return [merged.loss, *whole, *[None] * (4 - len(whole)), own[5]]

    def _placed(self, vector: Any) -> Any:
        """Own columns among those of all ranks."""
        if not isinstance(vector, np.ndarray) or len(vector) <= self.num_own or not self.num_foreign:
            return vector
        return np.insert(vector, self.num_own, np.full(self.num_foreign, np.nan))


def _completed(whole: NDArray[np.float32], own: Any, differ: NDArray[np.bool_]) -> NDArray[np.float32]:
    """This rank's own numbers where the ranks do not have the same, and of what they did not agree on."""
    if not isinstance(own, np.ndarray):
        return whole
    found, num = whole.copy(), min(len(whole), len(own))
    apart = differ[:num] & ~np.isnan(own[:num])
    found[:num][apart] = own[:num][apart]
    return np.concatenate([found, own[len(whole) :]])


def _without(vector: Any, is_part: NDArray[np.bool_]) -> Any:
    if not isinstance(vector, np.ndarray) or not is_part.any():
        return vector
    found = vector.copy()
    found[is_part[: len(found)].nonzero()[0]] = np.nan
    return found
