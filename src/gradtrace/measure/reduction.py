"""One gradient in, a handful of numbers out, without leaving the device.

Norms are accumulated in float64: in float32 the square of 1e-25 is zero and that of 1e+25 infinite, which would turn a
vanishing gradient into a vanished one. Kernels per gradient: a norm per example, minimum and maximum, the count of
non-zeros, and a copy of an evenly spaced sample from which the host makes the histogram.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from gradtrace.records.trace import TensorStats

if TYPE_CHECKING:
    from torch import Tensor

    from gradtrace.measure.deferred import Deferred

SAMPLE_SIZE = 2048
"""Elements that the histogram of a large tensor is counted on: a share of 1 % then has a standard error of 0.2 %."""

MAX_EXAMPLES = 65536
"""Leading axes longer than this are not kept per example."""


@dataclass(frozen=True, slots=True)
class Handle:
    """Where the numbers of one tensor lie in the `Deferred`."""

    shape: tuple[int, ...]
    dtype: str
    device: str
    norms: int
    extremes: int
    nonzeros: int
    sample: int
    per_example: bool


def reduce(tensor: Tensor, deferred: Deferred, batch_size: int | None = None) -> Handle:
    """Reduce `tensor` of any shape, dtype and layout.

    Norms are kept per example where the first (or second: sequence first) axis is as long as `batch_size`.
    """
    shape, dtype, device = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), str(tensor.device)
    values = _real(tensor.detach())
    wide = torch.float32 if values.device.type == "mps" else torch.float64
    axes = _example_axes(shape, batch_size) if values.dim() == len(shape) else None
    if values.numel() == 0:
        values = values.new_zeros(1)
        axes = None
    if axes is not None:
        norms = torch.linalg.vector_norm(values, dim=axes, dtype=wide) if axes else values.abs().to(wide)
    elif values.dim() > 1:  # by rows first: far faster than one reduction over everything
        norms = torch.linalg.vector_norm(torch.linalg.vector_norm(values, dim=-1, dtype=wide))
    else:
        norms = torch.linalg.vector_norm(values, dtype=wide)
    low, high = torch.aminmax(values)
    return Handle(
        shape=shape,
        dtype=dtype,
        device=device,
        norms=deferred.put(norms),
        extremes=deferred.put(torch.stack((low, high))),
        nonzeros=deferred.put(torch.count_nonzero(values)),
        sample=deferred.put(sample(values)),
        per_example=axes is not None,
    )


def _real(tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided:
        tensor = tensor.coalesce().values() if tensor.is_sparse else tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if not tensor.is_floating_point() or tensor.element_size() == 1:
        tensor = tensor.float()
    return tensor


def _example_axes(shape: tuple[int, ...], batch_size: int | None) -> tuple[int, ...] | None:
    if batch_size is None or batch_size > MAX_EXAMPLES or not shape:
        return None
    if shape[0] == batch_size:
        return tuple(range(1, len(shape)))
    if len(shape) > 2 and shape[1] == batch_size:
        return (0, *range(2, len(shape)))
    return None


def sample(values: Tensor, size: int = SAMPLE_SIZE) -> Tensor:
    """At most `size` evenly spaced elements as a copy (all of them when there are no more)."""
    flat = _flat(values)
    step = max(1, math.ceil(flat.numel() / size))
    if step > 1 and step % 2 == 0:
        step += 1  # an odd step does not lock onto one column of a power-of-two wide matrix
    return flat[::step].clone()


def _flat(values: Tensor) -> Tensor:
    if values.is_contiguous():
        return values.view(-1)
    if values.dim() == 2 and values.mT.is_contiguous():
        return values.mT.reshape(-1)
    if values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last):
        return values.permute(0, 2, 3, 1).reshape(-1)
    return values.reshape(-1)


def stats_of(handle: Handle, arrays: list[np.ndarray]) -> TensorStats:
    """The numbers that `handle` stands for, once they are on the host."""
    numel = math.prod(handle.shape)
    norms, (low, high) = arrays[handle.norms], arrays[handle.extremes]
    with np.errstate(over="ignore", invalid="ignore"):
        norm = float(np.sqrt(np.square(norms).sum())) if norms.size > 1 else float(norms[0])
        max_abs = float(max(abs(low), abs(high)))
    values = arrays[handle.sample]
    nonfinite = 0.0
    if not math.isfinite(max_abs):
        nonfinite = max(float(np.mean(~np.isfinite(values))), 1.0 / max(numel, 1))
    count = float(arrays[handle.nonzeros][0])
    # complex numbers are two reals each
    stored = max(numel * (2 if handle.dtype.startswith("complex") else 1), 1)
    quantiles: tuple[float, ...] = ()
    if handle.per_example and norms.size > 1 and math.isfinite(norm):
        quantiles = tuple(float(q) for q in np.quantile(norms, (0.0, 0.25, 0.5, 0.75, 1.0)))
    return TensorStats(
        shape=handle.shape,
        dtype=handle.dtype,
        device=handle.device,
        norm=norm,
        max_abs=max_abs,
        zero_frac=1.0 - count / stored,
        nonfinite_frac=nonfinite,
        log2_counts=log2_histogram(values),
        example_norms=quantiles,
    )


def log2_histogram(values: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Counts of floor(log2 |v|) over the finite, non-zero values.

    >>> log2_histogram(np.array([1.0, 1.5, 2.0, 0.0, -0.3]))
    ((-2, 1), (0, 2), (1, 1))
    """
    finite = values[np.isfinite(values) & (values != 0.0)]
    exponents, counts = np.unique(np.frexp(finite)[1] - 1, return_counts=True)
    return tuple((int(exponent), int(count)) for exponent, count in zip(exponents, counts, strict=True))
