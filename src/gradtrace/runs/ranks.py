"""What each rank says of itself at a step, as bytes and back; and which of it is kept, the older the less."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.records.run_ranks import RunRanks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

SAID = ("loss", "forward_s", "nonfinite", "gradient")
"""Of each rank, in this order."""

MOST_RANKS = 1024
"""Of whom more are not told apart."""

MOST_BYTES = 8 * 2**20
"""That what they say takes, in the file and in memory; then every second step of the older half goes."""

FEWEST = 64
"""[steps] That are kept whatever they take."""

NUM_LAYERS, MOST_LAYERED = 16, 128
"""[parameters, ranks] At most so many numbers more, of so many ranks at most."""

Said = tuple["NDArray[np.float64]", tuple[int, ...]]
"""[ranks, len(SAID) + layers], and the columns of the layers."""

_HEAD, _LAYERS = struct.Struct("<I"), struct.Struct("<I")


def most_reports(num_ranks: int) -> int:
    """Steps that are kept.

    >>> most_reports(2), most_reports(1024)
    (26214, 256)
    """
    each = len(SAID) + (NUM_LAYERS if num_ranks <= MOST_LAYERED else 0)
    return max(FEWEST, MOST_BYTES // (8 * each * max(num_ranks, 1)))


def thinned(steps: Sequence[int], num_ranks: int) -> set[int]:
    """Those of `steps`, in ascending order, that go.

    >>> len(thinned(range(257), 1024)), thinned(range(256), 1024)
    (64, set())
    """
    most = most_reports(num_ranks)
    return set(steps[1 : most // 2 : 2]) if len(steps) > most else set()


def pack_ranks(said: Said) -> bytes:
    """What `unpack_ranks` reads; without layers as in files of earlier versions."""
    table, columns = said
    whole = _HEAD.pack(len(table)) + table[:, : len(SAID)].astype("<f8").tobytes()
    if not columns:
        return whole
    layers = np.array(columns, "<u4").tobytes() + table[:, len(SAID) :].astype("<f8").tobytes()
    return whole + _LAYERS.pack(len(columns)) + layers


def unpack_ranks(packed: object) -> Said:
    """What ranks said.

    Raises:
        ValueError, struct.error: the bytes are not as long as they say.
    """
    if not isinstance(packed, bytes):
        raise ValueError("what ranks said is no bytes")
    (num,) = _HEAD.unpack_from(packed)
    end = _HEAD.size + 8 * len(SAID) * num
    if num > MOST_RANKS or len(packed) < end:
        raise ValueError("what ranks said is not as long as it says")
    table = np.frombuffer(packed, "<f8", len(SAID) * num, _HEAD.size).reshape(num, len(SAID))
    if len(packed) == end:
        return table, ()
    (num_layers,) = _LAYERS.unpack_from(packed, end)
    start = end + _LAYERS.size + 4 * num_layers
    if num_layers > NUM_LAYERS or len(packed) != start + 8 * num * num_layers:
        raise ValueError("what ranks said is not as long as it says")
    columns = np.frombuffer(packed, "<u4", num_layers, end + _LAYERS.size)
    layers = np.frombuffer(packed, "<f8", num * num_layers, start).reshape(num, num_layers)
    return np.hstack([table, layers]), tuple(columns.tolist())


def stack_ranks(reports: Iterable[tuple[int, Said]]) -> RunRanks | None:
    """By step, in ascending order; of a run whose world has changed, those of the latest size."""
    known = list(reports)
    if not known:
        return None
    latest, columns = known[-1][1]
    same = [(step, said) for step, said in known if len(said[0]) == len(latest)]
    whole = np.stack([table[:, : len(SAID)] for _, (table, _) in same])
    steps = np.array([step for step, _ in same], np.int64)
    layers = np.full((len(same), len(latest), len(columns)), np.nan)
    for place, (_, (table, of_table)) in enumerate(same):
        if of_table == columns:
            layers[place] = table[:, len(SAID) :]
    return RunRanks(
        steps,
        whole[:, :, 0],
        whole[:, :, 1],
        whole[:, :, 2] > 0.0,
        whole[:, :, 3],
        columns,
        layers if columns else None,
    )
