"""Numbers of which every rank has one, merged by a maximum over ranks and then a sum: associative, in any order.

Norms n of a rank are divided by the largest one M before they are squared, so that nothing under- or overflows, and
what is the same on all R ranks stays that to the bit:

    rms = M sqrt(sum (n / M)^2 / R)        spread = sqrt(1 - (sum n / M)^2 / (R sum (n / M)^2))
"""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Vector = NDArray[np.float64]
    Read = Callable[[], float]

MOST_KEY = 524_287
"""A key of the structure is taken by this prime: ranks times its square stay below 2^53 up to 32,000 ranks."""


class Pool:
    """This rank's numbers; what is put in is read, once merged, by the function that came back.

    >>> a, b = Pool(), Pool()
    >>> norm, _ = a.norm(3.0), b.norm(4.0)
    >>> largest = np.maximum(a.largest_of(), b.largest_of())
    >>> a.read(largest, a.sums(largest) + b.sums(largest), 2)
    >>> round(norm() ** 2, 9)
    12.5
    """

    def __init__(self) -> None:
        self._key = 0
        self._norms: list[float] = []
        self._largest: list[float] = []
        self._values: list[float] = []
        self._weights: list[float] = []
        self._bins: list[Sequence[tuple[int, int]]] = []
        self._chosen: list[tuple[Sequence[int], int]] = []
        self._shares: list[tuple[float, int]] = []
        self._read: dict[str, list[Any]] = {}

    # ---------------------------------------------------------------------------------------------------- putting in

    def same(self, *what: Any) -> None:
        """Ranks are merged only where they agree on this."""
        self._key = zlib.crc32(repr(what).encode(), self._key)

    def norm(self, value: float) -> Read:
        """Root mean square over ranks; one that is not finite makes it infinite."""
        return self._reader("norms", _put(self._norms, value))

    def spread(self, norm: int) -> Callable[[], float | None]:
        """Of the norm that was put in as number `norm`; None where it is zero or not finite."""
        return self._reader("spreads", norm)

    def largest(self, value: float) -> Read:
        """Over ranks."""
        return self._reader("largest", _put(self._largest, value))

    def smallest(self, value: float) -> Read:
        """Over ranks."""
        negated = self.largest(-value)
        return lambda: -negated()

    def mean(self, value: float, weight: float = 1.0) -> Read:
        """Over those ranks that know it (NaN: not known); of none, the own one."""
        is_known = not math.isnan(value)
        self._weights.append(weight if is_known else 0.0)
        place = _put(self._values, value * weight if is_known and weight else 0.0)

        def read() -> float:
            whole = self._read["weights"][place]
            return float(self._read["values"][place] / whole) if whole else value

        return read

    def total(self, value: float) -> Read:
        """Over ranks."""
        self._weights.append(1.0)
        return self._reader("values", _put(self._values, value))

    def histogram(self, bins: Sequence[tuple[int, int]]) -> Callable[[], tuple[tuple[int, int], ...]]:
        """Bins with their counts, added up."""
        return self._reader("histograms", _put(self._bins, bins))

    def everywhere(self, chosen: Sequence[int], num: int) -> Callable[[], tuple[int, ...]]:
        """Those of `num` that all ranks have among theirs."""
        return self._reader("everywhere", _put(self._chosen, (chosen, num)))

    def share(self, value: float | None, norm: int) -> Callable[[], float | None]:
        """Of the norm that was put in as number `norm`: ranks count by its square; None of nothing."""
        return self._reader("shares", _put(self._shares, (0.0 if value is None else value, norm)))

    @property
    def num_norms(self) -> int:
        """Put in so far."""
        return len(self._norms)

    def _reader(self, kind: str, place: int) -> Callable[[], Any]:
        return lambda: self._read[kind][place]

    # ------------------------------------------------------------------------------------------------------- merging

    @property
    def key(self) -> int:
        """Of the structure: what all ranks must have in common, lengths included."""
        sizes = (len(self._norms), len(self._largest), len(self._values), len(self._bins), len(self._shares))
        return zlib.crc32(repr((sizes, [num for _, num in self._chosen])).encode(), self._key) % MOST_KEY

    def largest_of(self) -> Vector:
        """What the maximum over ranks is taken of."""
        found = [*self._norms, *self._largest]
        found += [-bins[0][0] if bins else -math.inf for bins in self._bins]
        found += [bins[-1][0] if bins else -math.inf for bins in self._bins]
        found += [float(len(chosen)) for chosen, _ in self._chosen]
        return np.nan_to_num(np.array(found, np.float64), nan=np.inf, posinf=np.inf, neginf=-np.inf)

    def sums(self, largest: Vector) -> Vector:
        """What is added over ranks, given the maximum."""
        scaled, lows, sizes = self._scaled(largest), *self._ranges(largest)
        histograms = [np.zeros(size) for size in sizes]
        for counts, bins, low in zip(histograms, self._bins, lows, strict=True):
            for exponent, count in bins:
                counts[exponent - low] = count
        units = [np.zeros(num) for num in self._num_chosen(largest)]
        for counts, (chosen, _) in zip(units, self._chosen, strict=True):
            counts[list(chosen)] = 1.0
        shares = [share * scaled[norm] ** 2 for share, norm in self._shares]
        return np.concatenate(
            [scaled**2, scaled, self._values, self._weights, shares, *histograms, *units], dtype=np.float64
        )

    def read(self, largest: Vector, sums: Vector, num_ranks: int) -> None:
        """What was put in is known from now on, of all ranks."""
        num, num_values = len(self._norms), len(self._values)
        squares, norms, values, weights, shares, sums = np.split(
            sums, np.cumsum([num, num, num_values, num_values, len(self._shares)])
        )
        top = largest[:num]
        with np.errstate(divide="ignore", invalid="ignore"):
            together = np.where(np.isfinite(top), top * np.sqrt(squares / num_ranks), np.inf)
            spreads = np.sqrt(np.maximum(1.0 - norms**2 / (num_ranks * squares), 0.0))
        found = self._read
        found["norms"] = together.tolist()
        found["spreads"] = [spread if math.isfinite(spread) else None for spread in spreads.tolist()]
        found["largest"] = largest[num : num + len(self._largest)].tolist()
        found["values"], found["weights"] = values.tolist(), weights.tolist()
        wholes = [float(squares[norm]) for _, norm in self._shares]
        found["shares"] = [s / whole if whole > 0.0 else None for s, whole in zip(shares.tolist(), wholes, strict=True)]
        found["histograms"] = []
        lows, sizes = self._ranges(largest)
        for low, size in zip(lows, sizes, strict=True):
            counts, sums = sums[:size].tolist(), sums[size:]
            found["histograms"].append(tuple((low + i, round(c)) for i, c in enumerate(counts) if c))
        found["everywhere"] = []
        for size in self._num_chosen(largest):
            counts, sums = sums[:size], sums[size:]
            found["everywhere"].append(tuple(np.flatnonzero(counts == num_ranks).tolist()))

    def _scaled(self, largest: Vector) -> Vector:
        """Norms by the largest one; 0 where that says nothing."""
        own, top = np.array(self._norms, np.float64), largest[: len(self._norms)]
        is_known = np.isfinite(top) & (top > 0.0)
        return np.divide(own, top, out=np.zeros_like(own), where=is_known)

    def _ranges(self, largest: Vector) -> tuple[list[int], list[int]]:
        """Of each histogram the lowest bin, and how many there are."""
        start = len(self._norms) + len(self._largest)
        lows, highs = largest[start:][: 2 * len(self._bins)].reshape(2, -1)
        is_known = np.isfinite(lows)
        sizes = np.where(is_known, highs + lows + 1, 0)
        return np.where(is_known, -lows, 0).astype(int).tolist(), sizes.astype(int).tolist()

    def _num_chosen(self, largest: Vector) -> list[int]:
        """Nothing is sent of what no rank has any of."""
        most = largest[len(largest) - len(self._chosen) :]
        return [num if any_chosen else 0 for any_chosen, (_, num) in zip(most > 0.0, self._chosen, strict=True)]


def _put(where: list[Any], value: Any) -> int:
    where.append(value)
    return len(where) - 1
