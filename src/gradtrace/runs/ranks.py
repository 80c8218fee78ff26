"""What each rank says of itself at a step, as bytes and back; and which of it is kept, the older the less."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.records.run import RunRanks

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

_HEAD = struct.Struct("<I")


def most_reports(num_ranks: int) -> int:
    """Steps that are kept.

    >>> most_reports(2), most_reports(1024)
    (131072, 256)
    """
    return max(FEWEST, MOST_BYTES // (8 * len(SAID) * max(num_ranks, 1)))


def thinned(steps: Sequence[int], num_ranks: int) -> set[int]:
    """Those of `steps`, in ascending order, that go.

    >>> len(thinned(range(257), 1024)), thinned(range(256), 1024)
    (64, set())
    """
    most = most_reports(num_ranks)
    return set(steps[1 : most // 2 : 2]) if len(steps) > most else set()


def pack_ranks(said: NDArray[np.float64]) -> bytes:
    """`said` [ranks, len(SAID)]."""
    return _HEAD.pack(len(said)) + said.astype("<f8").tobytes()


def unpack_ranks(packed: object) -> NDArray[np.float64]:
    """[ranks, len(SAID)].

    Raises:
        ValueError, struct.error: the bytes are not as long as they say.
    """
    if not isinstance(packed, bytes):
        raise ValueError("what ranks said is no bytes")
    (num,) = _HEAD.unpack_from(packed)
    if num > MOST_RANKS or len(packed) != _HEAD.size + 8 * len(SAID) * num:
        raise ValueError("what ranks said is not as long as it says")
    return np.frombuffer(packed, "<f8", len(SAID) * num, _HEAD.size).reshape(num, len(SAID))


def stack_ranks(reports: Iterable[tuple[int, NDArray[np.float64]]]) -> RunRanks | None:
    """By step, in ascending order; of a run whose world has changed, those of the latest size."""
    known = list(reports)
    if not known:
        return None
    num = len(known[-1][1])
    same = [(step, said) for step, said in known if len(said) == num]
    whole = np.stack([said for _, said in same])
    steps = np.array([step for step, _ in same], np.int64)
    return RunRanks(steps, whole[:, :, 0], whole[:, :, 1], whole[:, :, 2] > 0.0, whole[:, :, 3])
