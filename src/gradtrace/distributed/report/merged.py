"""What the sum of all ranks' numbers tells."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.distributed.report.fields import parts_of
from gradtrace.distributed.report.given import Decision

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradtrace.records.trace import Trace

DIFFERENT = 1e-4
"""[relative spread] Of a gradient's norm over ranks. Sums of n float32 in another order differ by sqrt(n) 2^-24: less
up to n = 1e6; gradients of other data differ by far more."""

_LARGEST = float(np.finfo(np.float32).max)

NEAR = 1e-6
"""[meshes] Rounding in a sum of fractions 1 / m."""


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """What all ranks together say of one step."""

    is_complete: bool
    """Whether every rank gave its numbers."""
    loss: float | None
    """The mean over ranks; NaN where one was that."""
    gradients: NDArray[np.float32]
    """[columns]: norms of the whole; NaN: no rank has a gradient, or it is not known."""
    clipped: NDArray[np.float32]
    weights: NDArray[np.float32]
    moved: NDArray[np.float32]
    differ: NDArray[np.bool_]
    """[columns]: held as a whole by several ranks, and not the same on all of them as the optimizer sees it."""
    late: NDArray[np.bool_]
    """[columns]: the same only as the optimizer sees it, and so shown as that."""
    parted: NDArray[np.bool_]
    """[columns]: weights that are not the same to the bit on all ranks that hold them as a whole."""
    summed: bool
    """Whether weights were looked at for that."""
    num_bad: int
    """Ranks in which anything was not finite."""
    decision: Decision | None
    slots: NDArray[np.float64] | None
    """[ranks, slot_width]; None: there are too many ranks."""
    parted_buffers: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    """[buffers]: not the same to the bit on all ranks that have them."""
    largest: NDArray[np.float32] | None = None
    """[columns]: the largest entry of the gradient; NaN: not known. None: nobody looked."""
    zeros: NDArray[np.float64] | None = None
    """[columns]: how many entries of the gradient are zero; likewise."""
    nonfinite: NDArray[np.float64] | None = None
    """[columns]: how many are not finite; likewise."""
    num_traced: int = 0
    """Ranks that have a whole trace of the step."""
    is_alike: bool = True
    """Whether their traces have one structure."""
    trace: Trace | None = None
    """Merged, where all ranks have one and they are alike."""


def merged(whole: NDArray[np.float64], num_columns: int, num_ranks: int, num_buffers: int = 0) -> Merged:
    """What the sum of all ranks' numbers tells; behind the columns of parameters are those of buffers."""
    head, columns, slots = parts_of(whole, num_columns + num_buffers, num_ranks)
    parted_buffers, columns = _parted(*columns[num_columns:].T[8:11]), columns[:num_columns]
    meshes, squares, norms, clipped, seen, weighed, weights, moved, summed, sums, squared_sums = columns.T[:11]
    counted, zeros, nonfinite = columns.T[11:]
    with np.errstate(divide="ignore", invalid="ignore"):
        differ = _differ(meshes, clipped, seen)
        late = _differ(meshes, squares, norms) & ~differ
        gradients, of_weights = _norms(np.where(late, clipped, squares), meshes), _norms(weights, weighed)
        return Merged(
            is_complete=round(head[0]) == num_ranks,
            loss=_loss(head),
            gradients=gradients,
            clipped=_norms(clipped, meshes),
            weights=of_weights,
            moved=_norms(moved, weighed),
            differ=differ,
            late=late,
            parted=_parted(summed, sums, squared_sums),
            summed=bool(summed.any()),
            num_bad=round(head[5]),
            decision=Decision(round(head[6]), round(head[7]), bool(head[8]), bool(head[9])) if head[7] > 0.0 else None,
            slots=slots,
            parted_buffers=parted_buffers,
            zeros=_whole(zeros, counted),
            nonfinite=_whole(nonfinite, counted),
            num_traced=round(head[10]),
            is_alike=not _parted(head[10], head[11], head[12]),
        )


def _differ(meshes: NDArray[np.float64], squares: NDArray[np.float64], norms: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether the spread over ranks is more than rounding; a NaN is no difference."""
    is_different: NDArray[np.bool_] = np.sqrt(np.maximum(meshes * squares - norms**2, 0.0)) / norms > DIFFERENT
    return is_different


def _parted(
    summed: NDArray[np.float64], sums: NDArray[np.float64], squared_sums: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether numbers of so many ranks are not all the same: only then is this equal (Cauchy and Schwarz)."""
    is_parted: NDArray[np.bool_] = summed * squared_sums != sums**2
    return is_parted


def _whole(counts: NDArray[np.float64], meshes: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Of one mesh: several hold the same, and of one that is not whole nothing is known; None where there is none."""
    num = np.rint(meshes)
    known = np.where((num < 1.0) | (np.abs(meshes - num) > NEAR), np.nan, counts / num)
    return known if meshes.any() else None


def _norms(squares: NDArray[np.float64], meshes: NDArray[np.float64]) -> NDArray[np.float32]:
    """Not known where a mesh is not whole."""
    count = np.rint(meshes)
    found = np.sqrt(squares / count)
    found[np.isfinite(found)] = np.minimum(found[np.isfinite(found)], _LARGEST)
    found[(count < 1.0) | (np.abs(meshes - count) > NEAR)] = np.nan
    return found.astype(np.float32)


def _loss(head: NDArray[np.float64]) -> float | None:
    if head[3]:
        return math.nan
    if head[4]:
        return math.inf
    return float(head[2] / head[1]) if head[1] else None
