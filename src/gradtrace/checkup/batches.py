"""Batches as the user gives them: looked at one by one, and cut in half to see how the loss is reduced."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradtrace.errors import InputError
from gradtrace.measure.session import batch_size_of, eager
from gradtrace.measure.untouched import untouched
from gradtrace.tape.dataflow import tensors_in
from gradtrace.tape.private import nbytes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import nn


MOST_BYTES = 2**28
"""Of batches that are taken beyond the first few."""


def take(batches: Iterable[Any], count: int) -> list[Any]:
    """The first `count` batches; a lone tensor is one batch and not a sequence of them."""
    if isinstance(batches, Tensor | dict):
        return [batches]
    try:
        taken = list(itertools.islice(batches, count))
    except TypeError:
        raise InputError(f"batches must be an iterable of batches, but it is {type(batches).__name__}") from None
    if not taken:
        raise InputError("there are no batches: give at least one, for example [(x, y)] or a DataLoader")
    if any(batch_size_of(batch) == 0 for batch in taken):
        raise InputError("a batch is empty: its first axis has length 0")
    return taken


def take_more(batches: Iterable[Any], taken: list[Any], count: int) -> list[Any]:
    """`taken` and what follows, `count` in all; what can be gone through again is, as one pass without repeats.

    Fewer where they are large (`MOST_BYTES`), or where the next cannot be had: nobody has asked for it.
    """
    if isinstance(batches, Tensor | dict):
        return taken
    found, source = ([*taken], batches) if iter(batches) is batches else ([], batches)
    size = sum(map(_nbytes, found))
    try:
        for batch in itertools.islice(source, max(0, count - len(found))):
            size += _nbytes(batch)
            if batch_size_of(batch) == 0 or size > MOST_BYTES:
                break
            found.append(batch)
    except Exception:  # the user's data, where the check would not have come to
        return found if len(found) > len(taken) else taken
    return found if len(found) >= len(taken) else taken


def _nbytes(batch: Any) -> int:
    return sum(map(nbytes_of, tensors_in(batch)))


def first_half(batch: Any, size: int) -> Any:
    """`batch` with every tensor of `size` examples cut to the first half."""
    if isinstance(batch, Tensor):
        return batch[: size // 2] if batch.dim() and batch.shape[0] == size else batch
    if isinstance(batch, dict):
        return {key: first_half(value, size) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(first_half(value, size) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(first_half(value, size) for value in batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return dataclasses.replace(
            batch, **{f.name: first_half(getattr(batch, f.name), size) for f in dataclasses.fields(batch)}
        )
    return batch


def summed_over(model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], batch: Any) -> float | None:
    """Loss of the batch over loss of its first half: 1 for a mean, 2 for a sum; None where it cannot be told."""
    size = batch_size_of(batch)
    if size is None or size < 2 or size % 2:
        return None
    try:
        with untouched(model, loss_fn=loss_fn, batch=batch), eager(), torch.no_grad():
            state = torch.get_rng_state()
            whole = float(loss_fn(model, batch))
            torch.set_rng_state(state)
            half = float(loss_fn(model, first_half(batch, size)))
    except Exception:
        return None  # a loss that insists on its batch size, or on gradients, does not tell
    return whole / half if half and math.isfinite(whole) and math.isfinite(half) else None
