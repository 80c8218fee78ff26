"""One report: what a rank gives, as numbers that are added over the world, and what the sum tells.

Every number is a count, a sum or a sum of squares, so that the order of adding does not matter. Of a column (one
parameter) with the local norm n of a rank, whose mesh has m ranks that hold each entry c times (`placement`):

    meshes = sum 1 / m        squares = sum n^2 / c        |p|^2 = squares / meshes
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gradtrace.distributed.placement import Placement

HEAD = ("given", "losses", "loss", "nan_losses", "infinite_losses", "bad", "first", "num", "updates")
"""Ranks that gave numbers; those with a finite loss, and its sum; those whose loss was NaN, or infinite; those in which
anything was not finite; rank 0's decision: the next stretch's first step, its length, whether weights are measured."""

COLUMN = (
    *("meshes", "squares", "norms", "clipped", "seen"),
    *("weighed", "weights", "moved"),
    *("summed", "sums", "squared_sums"),
)
"""Of a gradient: meshes that have it, square, norm (NaN of a part), square and norm as the optimizer saw it; of a
weight: meshes that measured it, its square, the square of its update; ranks that summed up its bits, the sums, and
their squares."""

MOST_SUM = 4093
"""A sum of a weight's bits is taken by this prime, so that no bit is lost: ranks times the sum of squares then stays
below 2^53, where floats count exactly, up to 20,000 ranks."""

SLOT = ("loss", "forward_s", "bad", "gradient")
"""Of each rank by itself: its loss, seconds from the end of the last step to the loss, whether anything was not finite
there, and the norm of its gradient before any averaging; zeros of a rank that gave nothing."""

MOST_SLOTS = 1024
"""Ranks in a world whose ranks are told apart; beyond, a report has their sums only."""

DIFFERENT = 1e-4
"""[relative spread] Of a gradient's norm over ranks. Sums of n float32 in another order differ by sqrt(n) 2^-24: less
up to n = 1e6; gradients of other data differ by far more."""

_LARGEST = float(np.finfo(np.float32).max)

NEAR = 1e-6
"""[meshes] Rounding in a sum of fractions 1 / m."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Of rank 0: which steps are the next ones to report."""

    first: int
    num: int
    updates: bool = False
    """Whether weights and updates are measured at the first of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """Placements by local column, as the numbers that a report is made with."""

    of_mesh: NDArray[np.float64]
    """What this rank is of each mesh; 0 where it cannot say anything."""
    replication: NDArray[np.float64]
    is_part: NDArray[np.bool_]

    @classmethod
    def of(cls, placements: Sequence[Placement]) -> Shares:
        """By column."""
        return cls(
            np.array([1.0 / one.num_ranks if one.is_known else 0.0 for one in placements]),
            np.array([float(one.replication) for one in placements]),
            np.array([one.is_part for one in placements], bool),
        )


NO_SHARES = Shares(np.zeros(0), np.zeros(0), np.zeros(0, bool))


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """What a rank has to say of one step; None: not known. Vectors are norms by local column, NaN where not known."""

    loss: float | None = None
    gradients: NDArray[np.float32] | None = None
    clipped: NDArray[np.float32] | None = None
    weights: NDArray[np.float32] | None = None
    moved: NDArray[np.float32] | None = None
    sums: NDArray[np.float32] | None = None
    """Of the bits of weights that lie here as a whole, and then of buffers, below `MOST_SUM`."""
    is_bad: bool = False
    forward_s: float = math.nan
    local: float = math.nan
    """Norm of the gradient before it was averaged with other ranks'."""
    of_gradients: Shares = NO_SHARES
    of_weights: Shares = NO_SHARES


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
    """[ranks, len(SLOT)]; None: there are too many ranks."""
    parted_buffers: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    """[buffers]: not the same to the bit on all ranks that have them."""


def size_of(num_columns: int, num_ranks: int) -> int:
    """How many numbers a report has.

    >>> size_of(1000, 2), size_of(1000, 10_000)
    (11017, 11009)
    """
    return len(HEAD) + len(COLUMN) * num_columns + len(SLOT) * _num_slots(num_ranks)


def pack(
    given: Given | None,
    places: NDArray[np.int64],
    num_columns: int,
    rank: int,
    num_ranks: int,
    decision: Decision | None = None,
) -> NDArray[np.float64]:
    """The numbers of one rank; `given` None: it has none. `places`: by local column the column of the report."""
    whole = np.zeros(size_of(num_columns, num_ranks))
    head, columns, slots = _parts(whole, num_columns, num_ranks)
    if decision is not None:
        head[6:9] = decision.first, decision.num, decision.updates
    if given is None:
        return whole
    head[0], head[5] = 1.0, given.is_bad
    if given.loss is not None:
        kind = 2 if math.isfinite(given.loss) else 3 if math.isnan(given.loss) else 4
        head[kind] = given.loss if kind == 2 else 1.0
        head[1] = kind == 2
    if slots is not None:
        loss = math.nan if given.loss is None else given.loss
        slots[rank] = loss, given.forward_s, given.is_bad, given.local
    _put_gradients(columns, given, places[: len(given.of_gradients.of_mesh)])
    _put_weights(columns, given, places[: len(given.of_weights.of_mesh)])
    if given.sums is not None:
        sums = _wide(given.sums, len(places))
        table = np.stack([np.ones(len(places)), sums, sums**2])
        columns[places, 8:11] = np.where(np.isnan(sums), 0.0, table).T
    return whole


def _put_gradients(columns: NDArray[np.float64], given: Given, places: NDArray[np.int64]) -> None:
    if given.gradients is None:
        return
    table, is_part = _table(given.gradients, given.of_gradients), given.of_gradients.is_part
    columns[places, 0], columns[places, 1] = table[0], table[1]
    columns[places, 2] = np.where((table[0] > 0.0) & is_part, np.nan, table[2])
    table = _table(given.gradients if given.clipped is None else given.clipped, given.of_gradients)
    columns[places, 3] = table[1]
    columns[places, 4] = np.where((table[0] > 0.0) & is_part, np.nan, table[2])


def _put_weights(columns: NDArray[np.float64], given: Given, places: NDArray[np.int64]) -> None:
    if given.weights is None:
        return
    num = len(places)
    moved = _wide(given.moved, num) if given.moved is not None else np.full(num, np.nan)
    both = np.where(np.isnan(moved), np.nan, _wide(given.weights, num))
    columns[places, 5], columns[places, 6] = _table(both, given.of_weights)[:2]
    columns[places, 7] = _table(moved, given.of_weights)[1]


def merged(whole: NDArray[np.float64], num_columns: int, num_ranks: int, num_buffers: int = 0) -> Merged:
    """What the sum of all ranks' numbers tells; behind the columns of parameters are those of buffers."""
    head, columns, slots = _parts(whole, num_columns + num_buffers, num_ranks)
    parted_buffers, columns = _parted(*columns[num_columns:].T[8:]), columns[:num_columns]
    meshes, squares, norms, clipped, seen, weighed, weights, moved, summed, sums, squared_sums = columns.T
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
            decision=Decision(round(head[6]), round(head[7]), bool(head[8])) if head[7] > 0.0 else None,
            slots=slots,
            parted_buffers=parted_buffers,
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


def _table(norms: NDArray[np.floating[Any]], shares: Shares) -> NDArray[np.float64]:
    """[3, columns]: shares of a mesh, squares by replication, norms by share; 0 where not known."""
    wide, share = _wide(norms, len(shares.of_mesh)), shares.of_mesh
    table = np.stack([share, wide**2 / shares.replication, wide * share])
    return np.where(~np.isnan(wide) & (share > 0.0), table, 0.0)


def _wide(norms: NDArray[np.floating[Any]], num: int) -> NDArray[np.float64]:
    found = np.full(num, np.nan)
    found[: min(num, len(norms))] = norms[:num]
    return found


def _parts(
    whole: NDArray[np.float64], num_columns: int, num_ranks: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]:
    start = len(HEAD) + len(COLUMN) * num_columns
    columns = whole[len(HEAD) : start].reshape(num_columns, len(COLUMN))
    slots = whole[start:].reshape(-1, len(SLOT)) if _num_slots(num_ranks) else None
    return whole[: len(HEAD)], columns, slots


def _num_slots(num_ranks: int) -> int:
    return num_ranks if num_ranks <= MOST_SLOTS else 0
