"""How far apart were the ranks whose traces were merged into one?"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OverRanks:
    """Of a trace that stands for several ranks with one model and a share of the batch each (data parallelism).

    Norms are root mean squares over the ranks. A parameter's gradient is each rank's own, before it is averaged.
    """

    num_ranks: int
    spreads: tuple[float | None, ...]
    """Per op, the standard deviation over ranks of |gradient received|, as a fraction of its root mean square: 0 where
    all have the same, below 1 always. None: no gradient came, or it is zero on all or not finite."""
