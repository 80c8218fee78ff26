"""Factors, signs, views, sums and means: what they leave of what is known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from gradtrace.measure.broadcasting import broadcast_shape
from gradtrace.measure.written_out.forms import Difference, Form, Forms, Logs, Mixed, Picked, Product, Written, is_given


def negate(forms: Forms, _args: Any, _kwargs: Any, result: Tensor) -> Form | None:
    """-x."""
    return scaled(forms[0], -1.0, result)


def divide(forms: Forms, args: Any, kwargs: Any, result: Tensor) -> Form | None:
    """X / a, a given."""
    if kwargs or len(args) != 2 or not is_given(args[1]) or (isinstance(args[1], (int, float)) and not args[1]):
        return None
    return scaled(forms[0], 1.0 / args[1], result)


def scaled(form: Form | None, given: Any, result: Tensor) -> Form | None:
    """Multiplied by one number, or by one for each element."""
    if not isinstance(form, (Difference, Written, Mixed, Logs, Product)):
        return None
    if isinstance(given, Tensor) and given.numel() > 1:
        return None if isinstance(form, (Logs, Product)) else weighed(form, given.detach().float(), result)
    number = given.detach().float().reshape(()) if isinstance(given, Tensor) else given
    if isinstance(form, Mixed):
        return Mixed(tuple(replace(part, scale=part.scale * number) for part in form.parts))
    if isinstance(form, Product):
        return replace(form, given=form.given * number)
    return replace(form, scale=form.scale * number)


def weighed(form: Difference | Written | Mixed, given: Tensor, result: Tensor) -> Form | None:
    """Multiplied by a number for each element."""
    if isinstance(form, Mixed):
        return None
    if isinstance(form, Difference):
        if result.shape != broadcast_shape(form.output, form.target.shape):
            return None
        return replace(form, factor=given if form.factor is None else form.factor * given)
    if not form.in_order or result.numel() != math.prod(form.shape):
        return None
    weight = given.expand(result.shape).reshape(form.shape)
    return replace(form, weight=weight if form.weight is None else form.weight * weight, pair=None)


def view(forms: Forms, args: Any, _kwargs: Any, result: Tensor) -> Form | None:
    """The same numbers in the same order."""
    form = forms[0]
    if isinstance(form, Written) and result.numel() == args[0].numel():
        return replace(form, axes=form.axes if result.shape == args[0].shape else None, pair=None)
    if isinstance(form, (Difference, Picked, Mixed)) and result.numel() == args[0].numel():
        return form
    return replace(form, axis=None) if isinstance(form, Logs) else None


def cast(forms: Forms, _args: Any, _kwargs: Any, _result: Tensor) -> Form | None:
    """The same numbers in another format."""
    return forms[0]


def total(forms: Forms, args: Any, kwargs: Any, _result: Tensor) -> Form | None:
    """Sums over some axes, or all."""
    return reduced(forms[0], args, kwargs, 1.0)


def average(forms: Forms, args: Any, kwargs: Any, result: Tensor) -> Form | None:
    """Means over some axes, or all."""
    return reduced(forms[0], args, kwargs, result.numel() / max(args[0].numel(), 1))


def reduced(form: Form | None, args: Any, kwargs: Any, scale: float) -> Form | None:
    """`scale` times the sum over some axes, or all."""
    if isinstance(form, Mixed):
        return form
    if not isinstance(form, Written):
        return None
    dim = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else None))
    keepdim = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
    form = replace(form, scale=form.scale * scale, pair=None)
    if form.axes is None:
        return form
    num_axes = args[0].dim()
    gone = range(num_axes) if dim is None else [i % max(num_axes, 1) for i in ([dim] if isinstance(dim, int) else dim)]
    shape = [1 if i in {form.axes[each] for each in gone} else size for i, size in enumerate(form.shape)]
    left = form.axes if keepdim else tuple(axis for i, axis in enumerate(form.axes) if i not in gone)
    return replace(form, shape=tuple(shape), axes=left)
