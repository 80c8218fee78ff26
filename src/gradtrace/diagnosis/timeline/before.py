"""What came before? How far the steps in front of an onset moved the weights, and whether the gradient jumped.

What lies further back counts for nothing: weights that start at zero are replaced by their first steps, and an outlier
that training got over long ago explains no NaN of today.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.thresholds import (
    DIVERGED_FACTOR,
    HEALTHY_DECADES,
    NEAR_ZERO,
    SPIKE_WINDOW,
    SUSTAINED_FRAC,
    SUSTAINED_ROWS,
    UPDATE_REPLACES,
)
from gradtrace.records.run import Scalar, Series

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradtrace.records.run import Run


@dataclass(frozen=True, slots=True)
class Before:
    """The rows up to an onset, as far back as `SPIKE_WINDOW`."""

    update_ratio: float
    """The largest update-to-weight ratio of a matrix; 0 where none was measured."""
    jump_step: int | None
    """Where the gradient norm stood out, within `SUSTAINED_ROWS` of the onset; None: nowhere."""
    jump: float = 0.0
    usual: float = 0.0

    @property
    def replaced(self) -> bool:
        """Whether steps as large as the weights led up to it: then the steps are to blame."""
        return self.update_ratio > UPDATE_REPLACES

    @property
    def sentence(self) -> str:
        """In words, with a space in front."""
        told = []
        if self.jump_step is not None:
            told.append(
                f"at step {self.jump_step} the gradient norm jumped to {self.jump:.3g}, {self.usual:.3g} was usual"
            )
        if self.replaced:
            told.append(f"steps moved weights by up to {self.update_ratio:.2g} times their size")
        return f" Just before, {', and '.join(told)}." if told else " Nothing stood out in the steps before."


def before(run: Run, onset: int) -> Before:
    """What the steps that led up to step `onset` were like, the onset's own included."""
    last = int(np.searchsorted(run.steps.first, onset, side="right"))
    rows = np.arange(max(0, last - SPIKE_WINDOW), last)
    ratios = ratios_of_matrices(run)[rows]
    ratios = ratios[np.isfinite(ratios)]
    norms = run.steps.scalar(Scalar.GRADIENT_NORM)[1][rows]
    norms = np.where(np.isfinite(norms), norms, np.nan)
    earlier, near = norms[:-SUSTAINED_ROWS], norms[-SUSTAINED_ROWS:]
    ratio = float(ratios.max()) if ratios.size else 0.0
    usual = float(np.nanmedian(earlier)) if np.isfinite(earlier).any() else 0.0
    if not usual or not np.nanmax(near, initial=0.0) > DIVERGED_FACTOR * usual:
        return Before(ratio, None)
    worst = int(np.nanargmax(near))
    return Before(ratio, int(run.steps.first[rows[-len(near) :][worst]]), float(near[worst]), usual)


def ratios_of_matrices(run: Run, *, largest: bool = True) -> NDArray[np.float32]:
    """[rows, matrices] of |update| / |weight|, NaN where it is not known or the weight is near zero still.

    What starts at zero is replaced by its first steps, by design; |W| / sqrt(fan_out) = rms(w) sqrt(fan_in) tells.
    """
    columns = matrices(run)
    shapes = [run.header.parameters[i].shape for i in columns]
    low, high = run.steps.series(Series.UPDATE_RATIO)
    size = run.steps.series(Series.WEIGHT_NORM)[0][:, columns] / np.sqrt([max(shape[0], 1) for shape in shapes])
    return np.where(size <= NEAR_ZERO, np.float32(np.nan), (high if largest else low)[:, columns]).astype(np.float32)


def matrices(run: Run) -> list[int]:
    """Columns of weights that are no vectors."""
    return [i for i, parameter in enumerate(run.header.parameters) if len(parameter.shape) > 1]


def had_faded(values: NDArray[np.float32]) -> bool:
    """Whether a series that ends in zeros was small already in its last rows above zero, compared with its first."""
    seen = values[values > 0.0]
    width = max(SUSTAINED_ROWS, int(SUSTAINED_FRAC * len(seen)))
    return bool(np.median(seen[-SUSTAINED_ROWS:]) < 10**-HEALTHY_DECADES * np.median(seen[:width]))
