"""Which numbers does a report have, and where?

Every number is a count, a sum or a sum of squares, so that the order of adding does not matter. Of a column (one
parameter) with the local norm n of a rank, whose mesh has m ranks that hold each entry c times (`placement`):

    meshes = sum 1 / m        squares = sum n^2 / c        |p|^2 = squares / meshes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HEAD = (
    *("given", "losses", "loss", "nan_losses", "infinite_losses", "bad"),
    *("first", "num", "updates", "traces"),
    *("traced", "keys", "squared_keys"),
)
"""Ranks that gave numbers; those with a finite loss, and its sum; those whose loss was NaN, or infinite; those in which
anything was not finite; rank 0's decision: the next stretch's first step, its length, whether weights are measured at
that step and whether it is traced whole; ranks that have a whole trace, the keys of their structures, and their
squares."""

COLUMN = (
    *("meshes", "squares", "norms", "clipped", "seen"),
    *("weighed", "weights", "moved"),
    *("summed", "sums", "squared_sums"),
    *("counted", "zeros", "nonfinite"),
)
"""Of a gradient: meshes that have it, square, norm (NaN of a part), square and norm as the optimizer saw it; of a
weight: meshes that measured it, its square, the square of its update; ranks that summed up its bits, the sums, and
their squares; of the gradient's entries: meshes that counted them, how many are zero, and how many not finite."""

MOST_SUM = 4093
"""A sum of a weight's bits is taken by this prime, so that no bit is lost: ranks times the sum of squares then stays
below 2^53, where floats count exactly, up to 20,000 ranks."""

SLOT = ("loss", "forward_s", "bad", "gradient")
"""Of each rank by itself: its loss, seconds from the end of the last step to the loss, whether anything was not finite
there, and the norm of its gradient before any averaging; zeros of a rank that gave nothing."""

MOST_SLOTS = 1024
"""Ranks in a world whose ranks are told apart; beyond, a report has their sums only."""

NUM_LAYERS, MOST_LAYERED = 16, 128
"""[parameters, ranks] Behind its slot the norm of the rank's own gradient of so many parameters, in worlds of up to so
many ranks."""


def size_of(num_columns: int, num_ranks: int) -> int:
    """How many numbers a report has.

    >>> size_of(1000, 2), size_of(1000, 10_000)
    (14053, 14013)
    """
    return len(HEAD) + len(COLUMN) * num_columns + slot_width(num_ranks) * num_ranks


def parts_of(
    whole: NDArray[np.float64], num_columns: int, num_ranks: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]:
    """Head, [columns, len(COLUMN)] and [ranks, slot_width] of a report, as views."""
    start = len(HEAD) + len(COLUMN) * num_columns
    columns = whole[len(HEAD) : start].reshape(num_columns, len(COLUMN))
    width = slot_width(num_ranks)
    slots = whole[start:].reshape(-1, width) if width else None
    return whole[: len(HEAD)], columns, slots


def slot_width(num_ranks: int) -> int:
    """How many numbers a rank has for itself."""
    return 0 if num_ranks > MOST_SLOTS else len(SLOT) + (NUM_LAYERS if num_ranks <= MOST_LAYERED else 0)
