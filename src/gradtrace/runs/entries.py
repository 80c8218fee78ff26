"""What gradients' entries were like at a step, as bytes and back; and which steps are kept, the older the fewer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradtrace.records.entries import RunEntries

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

NUM = 3
"""Largest, fraction of zeros, fraction of what is not finite: [NUM, parameters]."""

MOST_STEPS = 64
"""That are kept; of more every second one of the older half goes."""


def thinned_entries(steps: Sequence[int]) -> set[int]:
    """Those of `steps`, in ascending order, that go.

    >>> len(thinned_entries(range(65))), thinned_entries(range(64))
    (16, set())
    """
    return set(steps[1 : MOST_STEPS // 2 : 2]) if len(steps) > MOST_STEPS else set()


def pack_entries(table: NDArray[np.float32]) -> bytes:
    """`table` [NUM, parameters]."""
    return table.astype("<f4").tobytes()


def unpack_entries(packed: object, most_parameters: int) -> NDArray[np.float32]:
    """[NUM, parameters].

    Raises:
        ValueError: there are more parameters than the run has.
    """
    if not isinstance(packed, bytes) or len(packed) % (4 * NUM) or len(packed) > 4 * NUM * most_parameters:
        raise ValueError("what it holds of gradients' entries is not as long as its parameters")
    return np.frombuffer(packed, "<f4").reshape(NUM, -1)


def stack_entries(tables: Iterable[tuple[int, NDArray[np.float32]]], num_parameters: int) -> RunEntries | None:
    """By step, in ascending order; of what joined later nothing is known before."""
    known = list(tables)
    if not known:
        return None
    whole = np.full((len(known), NUM, num_parameters), np.nan, np.float32)
    for place, (_, table) in enumerate(known):
        whole[place, :, : table.shape[1]] = table
    return RunEntries(np.array([step for step, _ in known], np.int64), whole[:, 0], whole[:, 1], whole[:, 2])
