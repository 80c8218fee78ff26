"""Has the loss jumped? Such a step is measured, and the next one traced, whatever that costs."""

from __future__ import annotations

import math

JUMP, FADE = 10.0, 0.98
"""A loss so many times the largest of late (which halves in 34 steps) is looked at whatever that costs: seldom, for the
next one must be so many times larger again."""


class Jumps:
    """Of one run's loss.

    >>> jumps = Jumps()
    >>> [jumps.is_one(loss) for loss in (2.0, 1.9, 30.0, 40.0, float("nan"), None)]
    [False, False, True, False, False, False]
    """

    def __init__(self) -> None:
        self._recent = 0.0

    def is_one(self, loss: float | None) -> bool:
        """Whether `loss` is far above the latest ones; None: it is not known."""
        if loss is None or not math.isfinite(loss):
            return False
        recent, self._recent = self._recent, max(abs(loss), FADE * self._recent)
        return abs(loss) > JUMP * recent > 0.0
