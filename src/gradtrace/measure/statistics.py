"""On the host: from the numbers of all tensors to their records, together rather than one by one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.records.trace import TensorStats

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gradtrace.measure.reduction import Handle

_EXPONENTS = {4: (-150, 280), 8: (-1080, 2110)}
"""Bytes per number -> smallest floor(log2) minus one, and how many there are, subnormal numbers included."""

_CHUNK = 4096
"""Histograms made at a time."""


class Statistics:
    """The records of tensors by handle; equal numbers under another shape share everything but the shape."""

    def __init__(self, arrays: list[np.ndarray], handles: Iterable[Handle]) -> None:
        self.arrays = arrays
        unique = {(handle.sample, handle.shape): handle for handle in handles}
        samples = list(dict.fromkeys(handle.sample for handle in unique.values()))
        histograms = dict(zip(samples, log2_histograms([arrays[sample] for sample in samples]), strict=True))
        self._made = {key: self._make(handle, histograms[handle.sample]) for key, handle in unique.items()}

    def of(self, handle: Handle) -> TensorStats:
        """The record of one handle."""
        return self._made[handle.sample, handle.shape]

    def _make(self, handle: Handle, histogram: tuple[tuple[int, int], ...]) -> TensorStats:
        values = self.arrays[handle.sample]
        norms, max_abs, zero_frac = _small(handle, values) if handle.norms is None else self._large(handle, values)
        norm = math.sqrt(float(np.dot(norms, norms))) if norms.size > 1 else float(norms[0]) if norms.size else 0.0
        nonfinite = 0.0
        if not math.isfinite(max_abs):
            nonfinite = max(float(np.mean(~np.isfinite(values))), 1.0 / max(math.prod(handle.shape), 1))
        examples: tuple[float, ...] = ()
        if handle.example_axes is not None and norms.size > 1 and math.isfinite(norm):
            examples = quantiles(np.sort(norms), (0.0, 0.25, 0.5, 0.75, 1.0))
        return TensorStats(
            handle.shape, handle.dtype, handle.device, norm, max_abs, zero_frac, nonfinite, histogram, examples
        )

    def _large(self, handle: Handle, values: np.ndarray) -> tuple[np.ndarray, float, float]:
        assert handle.norms is not None
        assert handle.extremes is not None
        low, high = self.arrays[handle.extremes]
        stored = math.prod(handle.shape) * (2 if handle.dtype.startswith("complex") else 1)
        if handle.nonzeros is None:
            zero_frac = 1.0 - float(np.count_nonzero(values)) / values.size
        else:
            zero_frac = 1.0 - int(self.arrays[handle.nonzeros][0]) / max(stored, 1)
        norms = self.arrays[handle.norms].astype(np.float64)
        return norms, float(max(abs(low), abs(high))), zero_frac


def _small(handle: Handle, values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """A tensor that is here as a whole (of a sparse one, what it stores)."""
    if not values.size:
        return np.zeros(0), 0.0, 0.0
    wide = values.astype(np.float64)
    numel = math.prod(handle.shape)
    with np.errstate(invalid="ignore"):
        max_abs = float(np.abs(wide).max())
    stored = numel * (2 if handle.dtype.startswith("complex") else 1)
    zero_frac = 1.0 - int(np.count_nonzero(wide)) / max(stored, 1)
    if handle.example_axes is None or wide.size != numel:
        return np.array([math.sqrt(float(np.dot(wide, wide)))]), max_abs, zero_frac
    with np.errstate(invalid="ignore"):
        squares = np.square(wide.reshape(handle.shape)).sum(axis=handle.example_axes)
    return np.sqrt(squares), max_abs, zero_frac


def quantiles(ordered: np.ndarray, at: Sequence[float]) -> tuple[float, ...]:
    """Quantiles of a sorted array, linearly interpolated (NumPy's default) at a tenth of `np.quantile`'s cost.

    >>> quantiles(np.array([0.0, 1.0, 4.0]), (0.0, 0.25, 0.5, 1.0))
    (0.0, 0.5, 1.0, 4.0)
    """
    found = []
    for q in at:
        position = q * (ordered.size - 1)
        low = int(position)
        start, stop = ordered.item(low), ordered.item(min(low + 1, ordered.size - 1))
        found.append(start + (position - low) * (stop - start))
    return tuple(found)


def log2_histograms(arrays: list[np.ndarray]) -> list[tuple[tuple[int, int], ...]]:
    """Per array, counts of floor(log2 |v|) over the finite, non-zero values.

    >>> log2_histograms([np.array([1.0, 1.5, 2.0, 0.0, -0.3]), np.array([np.inf, 4.0])])
    [((-2, 1), (0, 2), (1, 1)), ((2, 1),)]
    """
    found: list[tuple[tuple[int, int], ...]] = [()] * len(arrays)
    for size, (lowest, num_bins) in _EXPONENTS.items():
        members = [i for i, array in enumerate(arrays) if array.dtype.itemsize == size]
        for start in range(0, len(members), _CHUNK):
            chunk = members[start : start + _CHUNK]
            counts = _count([arrays[i] for i in chunk], lowest, num_bins)
            rows, bins = np.nonzero(counts)
            pairs = list(zip((bins + lowest).tolist(), counts[rows, bins].tolist(), strict=True))
            ends = np.searchsorted(rows, np.arange(len(chunk)), side="right").tolist()
            for i, begin, end in zip(chunk, [0, *ends], ends, strict=False):
                found[i] = tuple(pairs[begin:end])
    return found


def _count(arrays: list[np.ndarray], lowest: int, num_bins: int) -> np.ndarray:
    values = np.concatenate(arrays)
    owners = np.repeat(np.arange(len(arrays)), [array.size for array in arrays])
    valid = np.isfinite(values) & (values != 0.0)
    exponents = np.frexp(values[valid])[1] - 1
    flat = owners[valid] * num_bins + (exponents - lowest)
    return np.bincount(flat, minlength=len(arrays) * num_bins).reshape(len(arrays), num_bins)
