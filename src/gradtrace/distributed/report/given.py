"""What a rank gives to a report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gradtrace.distributed.report.fields import SLOT, parts_of, size_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gradtrace.distributed.placement import Placement
    from gradtrace.records.trace import Trace


@dataclass(frozen=True, slots=True)
class Decision:
    """Of rank 0: which steps are the next ones to report."""

    first: int
    num: int
    updates: bool = False
    """Whether weights and updates are measured at the first of them."""
    traces: bool = False
    """Whether every rank takes a whole trace of it."""


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
    layers: NDArray[np.float32] | None = None
    """[NUM_LAYERS]: likewise of some parameters, NaN where there are fewer."""
    of_gradients: Shares = NO_SHARES
    of_weights: Shares = NO_SHARES
    entries: NDArray[np.float32] | None = None
    """[3 * columns]: of gradients, the largest entry, and how many are zero, and not finite, of what lies here."""
    trace: Trace | None = None
    """Of the step as a whole, as this rank took it; what is sent of it is made in the thread of the correspondence."""


def pack(
    given: Given | None,
    places: NDArray[np.int64],
    num_columns: int,
    rank: int,
    num_ranks: int,
    decision: Decision | None = None,
    trace_key: int | None = None,
) -> NDArray[np.float64]:
    """The numbers of one rank; `given` None: it has none. `places`: by local column the column of the report.

    `trace_key`: of the structure of a whole trace, if there is one.
    """
    whole = np.zeros(size_of(num_columns, num_ranks))
    head, columns, slots = parts_of(whole, num_columns, num_ranks)
    if decision is not None:
        head[6:10] = decision.first, decision.num, decision.updates, decision.traces
    if trace_key is not None:
        head[10:13] = 1.0, trace_key, trace_key**2
    if given is None:
        return whole
    head[0], head[5] = 1.0, given.is_bad
    if given.loss is not None:
        kind = 2 if math.isfinite(given.loss) else 3 if math.isnan(given.loss) else 4
        head[kind] = given.loss if kind == 2 else 1.0
        head[1] = kind == 2
    if slots is not None:
        loss = math.nan if given.loss is None else given.loss
        slots[rank, : len(SLOT)] = loss, given.forward_s, given.is_bad, given.local
        if slots.shape[1] > len(SLOT):
            slots[rank, len(SLOT) :] = math.nan if given.layers is None else given.layers
    _put_gradients(columns, given, places[: len(given.of_gradients.of_mesh)])
    _put_weights(columns, given, places[: len(given.of_weights.of_mesh)])
    _put_entries(columns, given, places[: len(given.of_gradients.of_mesh)])
    if given.sums is not None:
        sums = _wide(given.sums, len(places))
        table = np.stack([np.ones(len(places)), sums, sums**2])
        columns[places, 8:11] = np.where(np.isnan(sums), 0.0, table).T
    return whole


def largest_of(given: Given | None, places: NDArray[np.int64], num_columns: int) -> NDArray[np.float64]:
    """[columns]: the largest entries of gradients here, of which the largest over ranks is taken."""
    found = np.full(num_columns, -np.inf)
    if given is not None and given.entries is not None:
        largest = given.entries.reshape(3, -1)[0].astype(np.float64)
        places = places[: len(given.of_gradients.of_mesh)]
        found[places] = np.where(np.isnan(largest), -np.inf, largest)[: len(places)]
    return found


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


def _put_entries(columns: NDArray[np.float64], given: Given, places: NDArray[np.int64]) -> None:
    if given.entries is None:
        return
    shares = given.of_gradients
    zeros, nonfinite = (_wide(one, len(places)) for one in given.entries.reshape(3, -1)[1:])
    table = np.stack([shares.of_mesh, zeros / shares.replication, nonfinite / shares.replication])
    columns[places, 11:14] = np.where(~np.isnan(zeros) & (shares.of_mesh > 0.0), table, 0.0).T


def _table(norms: NDArray[np.floating[Any]], shares: Shares) -> NDArray[np.float64]:
    """[3, columns]: shares of a mesh, squares by replication, norms by share; 0 where not known."""
    wide, share = _wide(norms, len(shares.of_mesh)), shares.of_mesh
    table = np.stack([share, wide**2 / shares.replication, wide * share])
    return np.where(~np.isnan(wide) & (share > 0.0), table, 0.0)


def _wide(norms: NDArray[np.floating[Any]], num: int) -> NDArray[np.float64]:
    found = np.full(num, np.nan)
    found[: min(num, len(norms))] = norms[:num]
    return found
