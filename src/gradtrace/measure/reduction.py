"""One gradient in, a handful of numbers out, without leaving the device.

The square of 1e-25 is zero in float32 and that of 1e+25 infinite, which would turn a vanishing gradient into a vanished
one: norms are accumulated in float64. On the CPU, where looking at a number costs nothing, float32 is tried first and
kept where squares can neither under- nor overflow: it is four times faster.

A tensor of at most `WHOLE_SIZE` elements crosses to the host whole and is reduced there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch

from gradtrace.measure.deferred import on_host
from gradtrace.tape.private import foreach

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from gradtrace.measure.deferred import Deferred

WHOLE_SIZE = 1024
"""Up to that many elements cross to the host."""

SAMPLE_SIZE = 512
"""Elements that the histogram of a larger tensor is counted on: a share of 1 % then has a standard error of 0.4 %."""

COUNTED_SIZE = 2**15
"""Up to that many elements of a half format zeros are counted exactly: where they may have been rounded away. Otherwise
they are counted on the sample."""

MAX_EXAMPLES = 65536
"""Leading axes longer than this are not kept per example."""

SMALL_SIZE = 4096
"""Up to that many elements, float64 costs less than a call of its own."""

MOST_COMPARED = 2**14
"""Entries of rows that are compared with one another."""

_SAFE_SQUARES = {torch.float32: (1e-28, 1e32), torch.float64: (1e-290, 1e300)}
"""Sums of squares between these lost nothing to the range: what fell under float32's 1e-38 is under 1e-9 of them."""


@dataclass(slots=True)
class Handle:
    """Where the numbers of one tensor lie in the `Deferred`; not frozen, for there are many."""

    shape: tuple[int, ...]
    dtype: str
    device: str
    sample: int
    norms: int | None
    """Norm per example or of the whole; None for a small tensor, of which the sample holds every element."""
    extremes: tuple[int, int] | float | None
    """The smallest element and the largest, or at once the larger of their sizes; None for a small tensor."""
    nonzeros: int | None
    """Number of elements that are not zero; None where the sample tells."""
    example_axes: tuple[int, ...] | None
    """The axes that one example spans; None without a batch axis."""


def reduce(tensor: Tensor, deferred: Deferred, batch_size: int | None = None) -> Handle:
    """Reduce `tensor` of any shape, dtype and layout.

    Norms are kept per example where the first (or second: sequence first) axis is as long as `batch_size`.
    """
    shape = tuple(tensor.shape)
    values = real(tensor.detach())
    axes = _example_axes(shape, batch_size) if values.dim() == len(shape) else None
    dtype, device = name_of(tensor.dtype), str(tensor.device)
    if values.numel() <= WHOLE_SIZE:
        return Handle(shape, dtype, device, deferred.put(values, borrowed=True), None, None, None, axes)
    flat = in_memory_order(values)
    low, high = torch.aminmax(flat)
    counted = tensor.element_size() < 4 and flat.numel() <= COUNTED_SIZE
    return Handle(
        shape,
        dtype,
        device,
        sample=put_sample(flat, deferred),
        norms=deferred.put(norm(values, flat, axes)),
        extremes=max(-low.item(), high.item()) if on_host(flat) else (deferred.put(low), deferred.put(high)),
        nonzeros=deferred.put(count(torch.ne, flat, 0.0)) if counted else None,
        example_axes=axes,
    )


@cache
def name_of(dtype: torch.dtype) -> str:
    """``float32``."""
    return str(dtype).removeprefix("torch.")


def norm(values: Tensor, flat: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
    """Norm of all elements, or over `axes`; `flat` are the same elements in the order of memory."""
    safe = _SAFE_SQUARES.get(values.dtype)
    if safe is not None and values.device.type == "cpu":
        total: Tensor = torch.linalg.vector_norm(values, dim=axes) if axes else torch.dot(flat, flat)
        square = (torch.dot(total, total) if axes else total).item()  # on the CPU nothing waits for this
        if safe[0] < square < safe[1]:
            return total if axes else total.sqrt_()
    wide = torch.float32 if values.device.type == "mps" else torch.float64
    if axes:
        per_example: Tensor = torch.linalg.vector_norm(values, dim=axes, dtype=wide)
        return per_example
    rows = flat[: flat.numel() // 256 * 256].view(-1, 256)  # by rows first: far faster than all at once
    partial = torch.linalg.vector_norm(rows, dim=-1, dtype=wide)
    whole: Tensor = torch.linalg.vector_norm(torch.cat((partial, flat[rows.numel() :].to(wide))))
    return whole


def count(relation: Callable[..., Tensor], values: Tensor, bound: float) -> Tensor:
    """How many floating point values stand in `relation` (``torch.ne``, ``torch.lt``) to `bound`.

    A sum of ones in their own dtype: ten to twenty times as fast as `torch.count_nonzero`, which branches.
    """
    if values.numel() > 2**24:  # where float32 stops counting
        return torch.count_nonzero(relation(values, bound))
    return relation(values, bound, out=torch.empty_like(values)).sum()


def count_rows(relation: Callable[..., Tensor], rows: Tensor, bound: float) -> Tensor:
    """`count` of each row."""
    return relation(rows, bound, out=torch.empty_like(rows)).sum(1)


def whole_norm(tensor: Tensor) -> Tensor:
    """The norm of a tensor as one number on its device."""
    values = real(tensor.detach())
    if not values.numel():
        return values.new_zeros(())
    return norm(values, in_memory_order(values))


def spread(tensor: Tensor) -> Tensor:
    """The variance from row to row of the first few rows, a mean over their entries: two rows are enough for many.

    >>> spread(torch.tensor([[1.0, 2.0], [1.0, 0.0]])).item()
    1.0
    """
    some = max(2, MOST_COMPARED * len(tensor) // max(tensor.numel(), 1))
    return real(tensor.detach()[:some]).var(0).mean()


def are_alike(tensor: Tensor) -> Tensor:
    """1 where every row is the first one again, entry by entry; where two of a large tensor differ, no more are read.

    >>> are_alike(torch.tensor([[1, 2], [1, 2]])).item(), are_alike(torch.tensor([[1.0], [math.nan]])).item()
    (1.0, 0.0)
    """
    if tensor.numel() > MOST_COMPARED and on_host(tensor) and not torch.equal(tensor[0], tensor[-1]):
        return torch.zeros(())
    return (tensor[1:] == tensor[:1]).all().float()


def whole_norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """`whole_norm` of each; the small ones of a kind in one call."""
    found: list[Tensor | None] = [None] * len(tensors)
    groups: dict[torch.dtype, list[int]] = {}
    for i, tensor in enumerate(tensors):
        plain = tensor.dtype in _SAFE_SQUARES and tensor.layout is torch.strided and tensor.device.type == "cpu"
        if plain and 0 < tensor.numel() <= SMALL_SIZE:
            groups.setdefault(tensor.dtype, []).append(i)
    for members in groups.values():
        norms = foreach("norm")([tensors[i].detach() for i in members], 2, torch.float64)
        for i, one in zip(members, norms, strict=True):
            found[i] = one
    return [one if one is not None else whole_norm(tensors[i]) for i, one in enumerate(found)]


def real(tensor: Tensor) -> Tensor:
    """Its numbers as real ones in float32 or wider, of a sparse one those that it stores."""
    if tensor.dtype in _SAFE_SQUARES and tensor.layout is torch.strided:
        return tensor
    if tensor.layout is not torch.strided:
        tensor = tensor.coalesce().values() if tensor.is_sparse else tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if not tensor.is_floating_point() or tensor.element_size() < 4:
        tensor = tensor.float()
    return tensor


@cache
def _example_axes(shape: tuple[int, ...], batch_size: int | None) -> tuple[int, ...] | None:
    if batch_size is None or not 1 < batch_size <= MAX_EXAMPLES or not shape:
        return None
    if shape[0] == batch_size:
        return tuple(range(1, len(shape)))
    if len(shape) > 2 and shape[1] == batch_size:
        return (0, *range(2, len(shape)))
    return None


def put_sample(flat: Tensor, deferred: Deferred, size: int = SAMPLE_SIZE) -> int:
    """Keep at most `size` evenly spaced elements (all of them when there are no more)."""
    step = step_of(flat.numel(), size)
    if on_host(flat):
        return deferred.keep(flat.numpy(force=True)[::step])
    return deferred.put(flat[::step], borrowed=True)


def step_of(numel: int, size: int) -> int:
    """Every how manieth element is taken."""
    step = max(1, math.ceil(numel / size))
    return (
        step + 1 if step > 1 and step % 2 == 0 else step
    )  # odd: it locks onto no column of a power-of-two wide matrix


def in_memory_order(values: Tensor) -> Tensor:
    """All elements as one axis, without a copy where memory allows it: transposed reductions are ten times slower."""
    if values.is_contiguous():
        return values.view(-1)
    strides = sorted(zip(values.stride(), values.shape, strict=True), reverse=True)
    expected = 1
    for stride, size in reversed(strides):
        if size != 1 and stride != expected:
            return values.reshape(-1)
        expected *= size
    return values.as_strided((values.numel(),), (1,), values.storage_offset())
