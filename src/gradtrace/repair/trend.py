"""Is the unchanged network's own course known after so many steps?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.thresholds import DIVERGED_FACTOR
from gradtrace.records.repair import Role
from gradtrace.repair.pace import MOST_STEPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.repair import Trial


def trend_of(trials: Sequence[Trial], steps: int) -> tuple[str, ...]:
    """Whether the unchanged network's own course is known after so many steps."""
    original = next((trial for trial in trials if trial.role is Role.ORIGINAL), None)
    if original is None or original.start is None or original.end is None or len(original.outcomes) < 2:
        return ()
    ends = [o.end for o in original.outcomes]
    if len(set(ends)) == 1:
        return ("the seeds change nothing for the unchanged network: its trainings are one and the same",)
    if min(ends) > DIVERGED_FACTOR * abs(original.start):
        return ()  # how far is chance, and the way is known
    noise = max(ends) - min(ends)
    if not math.isfinite(noise) or abs(original.end - original.start) > noise:
        return ()
    longer = "; give steps=... for more" if steps < MOST_STEPS else ""
    return (f"the unchanged network's loss moved by less than its noise within {steps} steps{longer}",)
