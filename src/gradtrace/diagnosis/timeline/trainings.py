"""Of which steps is each training, of several in one run? New weights begin to get gradients, and none of the old do.

As in the folds of a cross-validation, or in a search: the losses of each are those of another network.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.records.run import Series

if TYPE_CHECKING:
    from gradtrace.records.run import Run


def trainings(run: Run) -> list[tuple[float, float]]:
    """[first step, first step of the next) of each, in order; one for a run whose weights stay, or join others."""
    got = np.nan_to_num(run.steps.series(Series.GRADIENT_NORM)[1]) > 0.0
    used = got[:, got.any(axis=0)]
    if not used.size:
        return [(-np.inf, np.inf)]
    begins, ends = used.argmax(axis=0), len(used) - 1 - used[::-1].argmax(axis=0)
    anew = [row for row in np.unique(begins)[1:] if (ends[begins < row] < row).all()]
    return list(pairwise([-np.inf, *(float(run.steps.first[row]) for row in anew), np.inf]))
