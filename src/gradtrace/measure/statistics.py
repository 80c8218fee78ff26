"""On the host: from the numbers of all tensors to their records, together rather than one by one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.records.trace import TensorStats

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gradtrace.measure.reduction import Handle

_CHUNK = 256
"""Tensors that are told at a time: their samples stay in a core's cache."""


class Statistics:
    """The records of tensors by handle; equal numbers under another shape share everything but the shape."""

    def __init__(self, arrays: list[np.ndarray], handles: Iterable[Handle]) -> None:
        self.arrays = arrays
        unique = {(handle.sample, handle.shape): handle for handle in handles}
        self._made: dict[tuple[int, tuple[int, ...]], TensorStats] = {}
        ordered = list(unique.values())
        for start in range(0, len(ordered), _CHUNK):
            self._make(ordered[start : start + _CHUNK])

    def of(self, handle: Handle) -> TensorStats:
        """The record of one handle."""
        return self._made[handle.sample, handle.shape]

    def _make(self, handles: list[Handle]) -> None:
        samples = [self.arrays[handle.sample] for handle in handles]
        sizes = [_stored(handle) for handle in handles]
        sums = Sums.of(samples)
        max_abs = [
            largest if handle.extremes is None else self._largest(handle.extremes)
            for handle, largest in zip(handles, sums.largest, strict=True)
        ]
        norms, examples = _norms(handles, [self._norms(h, s) for h, s in zip(handles, samples, strict=True)], sums)
        histograms = log2_histograms(samples)
        for i, handle in enumerate(handles):
            nonfinite = 0.0
            if not math.isfinite(max_abs[i]):
                nonfinite = max(float(np.mean(~np.isfinite(samples[i]))), 1.0 / max(math.prod(handle.shape), 1))
            if handle.norms is None:
                zero_frac = 1.0 - sums.nonzeros[i] / max(sizes[i], 1) if samples[i].size else 0.0
            elif handle.nonzeros is not None:
                zero_frac = 1.0 - int(self.arrays[handle.nonzeros][0]) / max(sizes[i], 1)
            else:  # of a sample: a tensor that is zero in it need not be zero
                zero_frac = min(1.0 - sums.nonzeros[i] / samples[i].size, 1.0 - (norms[i] != 0.0) / max(sizes[i], 1))
            self._made[handle.sample, handle.shape] = TensorStats(
                handle.shape, handle.dtype, handle.device, norms[i], max_abs[i], zero_frac, nonfinite, histograms[i],
                examples[i],
            )  # fmt: skip

    def _largest(self, extremes: tuple[int, int] | float) -> float:
        if isinstance(extremes, float):
            return extremes
        return float(max(abs(self.arrays[place][0]) for place in extremes))

    def _norms(self, handle: Handle, sample: np.ndarray) -> np.ndarray | None:
        """Norms of the examples, or of the whole as the only one; None: the sum of the squares of the sample tells."""
        if handle.norms is not None:
            return np.asarray(self.arrays[handle.norms], np.float64)
        if handle.example_axes is None or sample.size != math.prod(handle.shape) or not sample.size:
            return None
        with np.errstate(invalid="ignore"):
            squares: np.ndarray = np.square(sample.astype(np.float64).reshape(handle.shape)).sum(handle.example_axes)
        return np.asarray(np.sqrt(squares))


def _stored(handle: Handle) -> int:
    return math.prod(handle.shape) * (2 if handle.dtype.startswith("complex") else 1)


@dataclass(frozen=True, slots=True)
class Sums:
    """Of many arrays at once: sum of squares, largest size, number of entries that are not zero."""

    squares: list[float]
    largest: list[float]
    nonzeros: list[int]

    @classmethod
    def of(cls, arrays: list[np.ndarray]) -> Sums:
        """Empty arrays have 0 of everything.

        >>> Sums.of([np.array([3.0, -4.0]), np.empty(0), np.array([0.0])])
        Sums(squares=[25.0, 0.0, 0.0], largest=[4.0, 0.0, 0.0], nonzeros=[2, 0, 0])
        """
        full = [i for i, array in enumerate(arrays) if array.size]
        found = np.zeros((3, len(arrays)))
        if full:
            values = np.abs(np.concatenate([arrays[i] for i in full], dtype=np.float64))
            starts = np.cumsum([0, *(arrays[i].size for i in full[:-1])])
            with np.errstate(invalid="ignore", over="ignore", under="ignore"):
                found[1, full] = np.maximum.reduceat(values, starts)
                found[2, full] = np.add.reduceat(values != 0.0, starts, dtype=np.int64)
                found[0, full] = np.add.reduceat(np.square(values, out=values), starts)
        return cls(found[0].tolist(), found[1].tolist(), found[2].astype(int).tolist())


def _norms(
    handles: list[Handle], norms: list[np.ndarray | None], sums: Sums
) -> tuple[list[float], list[tuple[float, ...]]]:
    """Per handle the norm of the whole, and five quantiles over examples; those with as many examples together."""
    whole = np.sqrt(sums.squares).tolist()
    examples: list[tuple[float, ...]] = [()] * len(handles)
    groups: dict[int, list[tuple[int, np.ndarray]]] = {}
    for i, values in enumerate(norms):
        if values is not None:
            groups.setdefault(values.size, []).append((i, values))
    for size, members in groups.items():
        rows = np.stack([values for _, values in members])
        with np.errstate(over="ignore", under="ignore"):
            totals = np.sqrt(np.square(rows).sum(1)).tolist() if size != 1 else rows[:, 0].tolist()
        summaries = quantiles(np.sort(rows, axis=1), (0.0, 0.25, 0.5, 0.75, 1.0)) if size > 1 else []
        for position, (i, _) in enumerate(members):
            whole[i] = totals[position]
            if size > 1 and handles[i].example_axes is not None and math.isfinite(totals[position]):
                examples[i] = tuple(summaries[position])
    return whole, examples


def quantiles(ordered: np.ndarray, at: tuple[float, ...]) -> list[list[float]]:
    """Quantiles of each row, which is sorted, linearly interpolated (NumPy's default).

    >>> quantiles(np.array([[0.0, 1.0, 4.0]]), (0.0, 0.25, 0.5, 1.0))
    [[0.0, 0.5, 1.0, 4.0]]
    """
    low, high, weight = _places(ordered.shape[1], at)
    start = ordered[:, low]
    with np.errstate(invalid="ignore"):
        found: list[list[float]] = (start + weight * (ordered[:, high] - start)).tolist()
    return found


@cache
def _places(size: int, at: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    places = np.array(at) * (size - 1)
    low = places.astype(int)
    return low, np.minimum(low + 1, size - 1), places - low


def log2_histograms(arrays: list[np.ndarray]) -> list[tuple[tuple[int, int], ...]]:
    """Per array, counts of floor(log2 |v|) over the finite, non-zero values.

    >>> log2_histograms([np.array([1.0, 1.5, 2.0, 0.0, -0.3]), np.array([np.inf, 4.0])])
    [((-2, 1), (0, 2), (1, 1)), ((2, 1),)]
    """
    found: list[tuple[tuple[int, int], ...]] = [()] * len(arrays)
    for kind in (np.float32, np.float64):
        members = [i for i, array in enumerate(arrays) if array.dtype == kind]
        for start in range(0, len(members), _CHUNK):
            chunk = members[start : start + _CHUNK]
            lowest, counts = _count([arrays[i] for i in chunk], np.finfo(kind))
            rows, bins = np.nonzero(counts)
            pairs = list(zip((bins + lowest).tolist(), counts[rows, bins].tolist(), strict=True))
            ends = np.searchsorted(rows, np.arange(len(chunk)), side="right").tolist()
            for i, begin, end in zip(chunk, [0, *ends], ends, strict=False):
                found[i] = tuple(pairs[begin:end])
    return found


def _count(arrays: list[np.ndarray], info: np.finfo) -> tuple[int, np.ndarray]:
    """The smallest exponent that occurs, and how often each from it on does in each array.

    The exponent stands in the bits of a number: 0 for zeros and subnormal numbers, the largest for what is not finite.
    """
    values: np.ndarray = np.concatenate(arrays)
    owners = np.repeat(np.arange(len(arrays)), [array.size for array in arrays])
    whole: np.ndarray = values.view(np.int32 if info.bits == 32 else np.int64)
    bits = whole >> info.nmant
    bits &= (1 << info.nexp) - 1
    exponents = bits + (info.minexp - 1)
    if not bits.all():
        low = bits == 0
        exponents[low] = np.frexp(values[low])[1] - 1
        valid = (bits != (1 << info.nexp) - 1) & (values != 0.0)
    else:
        valid = bits != (1 << info.nexp) - 1
    if not valid.all():
        exponents, owners = exponents[valid], owners[valid]
    if not exponents.size:
        return 0, np.zeros((len(arrays), 1), int)
    lowest = int(exponents.min())
    num_bins = int(exponents.max()) - lowest + 1
    flat = owners * num_bins + (exponents - lowest)
    return lowest, np.bincount(flat, minlength=len(arrays) * num_bins).reshape(len(arrays), num_bins)
