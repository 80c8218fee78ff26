"""What is known of the entries of gradients in a run, beside their norms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.records.shown import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RunEntries:
    """Of gradients as the optimizer saw them, all ranks together, at some of the steps with updates."""

    steps: NDArray[np.int64]
    """[steps], ascending."""
    largest: NDArray[np.float32]
    """[steps, parameters]: the largest entry by absolute value; NaN: not known, Inf: one was NaN or Inf."""
    zero_frac: NDArray[np.float32]
    """[steps, parameters]: fraction of exact zeros; NaN: not known."""
    nonfinite_frac: NDArray[np.float32]
    """[steps, parameters]: fraction of NaN and Inf; NaN: not known."""

    def __repr__(self) -> str:
        return f"<RunEntries: {counted(len(self.steps), 'step')} of {counted(self.largest.shape[1], 'parameter')}>"
