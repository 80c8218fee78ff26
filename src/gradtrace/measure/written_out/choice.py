"""Elements of which only some count: masked, indexed or sliced, which is the same as to weigh the others with 0."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gradtrace.measure.broadcasting import broadcast_shape
from gradtrace.measure.written_out.forms import Difference, Form, Forms, Written
from gradtrace.measure.written_out.linear import view, weighed


def masked_select(forms: Forms, args: Any, kwargs: Any, result: Tensor) -> Form | None:
    """Those where a mask is true, in a row."""
    mask = kwargs.get("mask", args[1] if len(args) > 1 else None)
    if not isinstance(mask, Tensor) or not isinstance(forms[0], (Written, Difference)):
        return None
    return chosen(forms[0], args[0], mask.expand(args[0].shape), result)


def masked_fill(forms: Forms, args: Any, _kwargs: Any, result: Tensor) -> Form | None:
    """With 0 in the place of those where a mask is true."""
    if len(args) != 3 or not _is_zero(args[2]) or not isinstance(forms[0], (Written, Difference)):
        return None
    return weighed(forms[0], (~args[1]).float(), result)


def where(forms: Forms, args: Any, _kwargs: Any, result: Tensor) -> Form | None:
    """With 0 in the place of those where a mask is not true."""
    if len(args) != 3 or not _is_zero(args[2]) or not isinstance(forms[1], (Written, Difference)):
        return None
    return weighed(forms[1], args[0].float(), result)


def _is_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == 0


def chosen(form: Written | Difference, value: Tensor, index: Any, result: Tensor) -> Form | None:
    """[index] of errors: each weighs as often as it was taken."""
    parts = index if isinstance(index, tuple) else (index,)
    if result.numel() == value.numel() and not any(isinstance(part, (Tensor, list)) for part in parts):
        return view([form], (value,), {}, result)
    if isinstance(form, Written) and (not form.in_order or value.numel() != math.prod(form.shape)):
        return None
    times = _times(value, index, parts)
    if times is None:
        return None
    if isinstance(form, Difference):  # (raised to a power, 0 and 1 are what they were; two of one are not)
        whole = broadcast_shape(form.output, form.target.shape)
        one_each = isinstance(index, Tensor) and index.dtype is torch.bool and value.shape == whole
        return weighed(form, times, value) if one_each else None
    weight = times.reshape(form.shape)
    weight = weight if form.weight is None else form.weight * weight
    return replace(form, weight=weight, axes=None, pair=None, in_order=False)


def _times(value: Tensor, index: Any, parts: tuple[Any, ...]) -> Tensor | None:
    """How often each element is taken."""
    if isinstance(index, Tensor) and index.dtype is torch.bool:
        return index.reshape(*index.shape, *[1] * (value.dim() - index.dim())).float().expand(value.shape)
    if any(isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8) for part in parts):
        return None
    numbers = torch.arange(value.numel(), device=value.device).view(value.shape)[index].flatten()
    times = torch.zeros(value.numel(), device=value.device)
    return times.index_add_(0, numbers, torch.ones_like(numbers, dtype=times.dtype)).view(value.shape)
