"""What each rank of a run says of itself, before anything is averaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.records.shown import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RunRanks:
    """What each rank says of itself, at steps that all of them reported together."""

    steps: NDArray[np.int64]
    """[reports], ascending."""
    loss: NDArray[np.float64]
    """[reports, ranks]: of the rank's own batch; NaN: not known, or NaN where `nonfinite`."""
    forward_s: NDArray[np.float64]
    """[reports, ranks]: seconds from the end of the last step to the backward pass; NaN: not known."""
    nonfinite: NDArray[np.bool_]
    """[reports, ranks]: whether the loss, or a gradient as it was here, was not finite."""
    gradient: NDArray[np.float64]
    """[reports, ranks]: norm of the rank's own gradient, before any averaging, over up to 16 parameters spread evenly
    where DistributedDataParallel averages; NaN: not known, as of shards."""
    columns: tuple[int, ...] = ()
    """[layers]: the parameters that are told apart, as columns of the run; () where none are."""
    layers: NDArray[np.float64] | None = None
    """[reports, ranks, layers]: norm of the rank's own gradient of each, before any averaging; NaN: not known."""

    def __repr__(self) -> str:
        return f"<RunRanks: {counted(len(self.steps), 'report')} of {counted(self.loss.shape[1], 'rank')}>"
