"""Likelihoods: log p -> (log p)[i, t_i], and y log p, of classes or of each output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from gradtrace.measure.objective import AS_GOOD_AS_ONE, are_log_probabilities
from gradtrace.measure.written_out.choice import chosen
from gradtrace.measure.written_out.errors import SAME_ROUNDED
from gradtrace.measure.written_out.forms import (
    Difference,
    Form,
    Forms,
    Logs,
    Picked,
    Product,
    Scale,
    SumOfExp,
    Written,
    new,
)
from gradtrace.measure.written_out.linear import view
from gradtrace.measure.written_out.weighted import Terms, of_labels, of_outputs, of_probabilities


def logarithm(forms: Forms, _args: Any, _kwargs: Any, _result: Tensor) -> Form | None:
    """Log x: of probabilities, or of those that were picked."""
    picked = forms[0]
    if not isinstance(picked, Picked):
        return Logs()
    return of_picked(picked, lambda: are_log_probabilities(picked.rows.log(), picked.axis))


def log_softmax(_forms: Forms, args: Any, kwargs: Any, result: Tensor) -> Form | None:
    """Along a known axis."""
    axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
    return Logs(axis % result.dim() if isinstance(axis, int) and result.dim() else None)


def soft_plus(_forms: Forms, _args: Any, _kwargs: Any, _result: Tensor) -> Form | None:
    """Softplus(z) = -log(1 - sigmoid(z))."""
    return Logs(scale=-1.0)


def sum_of_exp(_forms: Forms, _args: Any, _kwargs: Any, _result: Tensor) -> Form | None:
    """Log sum exp."""
    return SumOfExp()


def likelihood(form: Logs, given: Tensor, value: Tensor, result: Tensor) -> Form | None:
    """Likelihoods y log p, of classes as it seems."""
    logs, y = value.detach() / form.scale, given.detach().float()
    sign = torch.where(y.sum() < 0.0, -1.0, 1.0)
    y = y * sign
    if result.shape != logs.shape or not result.dim():
        return None
    axis = form.axis if form.axis is not None else min(1, result.dim() - 1)

    def terms(weight: Tensor | None) -> Terms | None:
        found = of_probabilities(y.expand(logs.shape), axis, weight)
        if found is None or form.axis is not None:
            return found
        return found._replace(valid=found.valid & are_log_probabilities(logs, axis))

    return replace(new("cross_entropy", terms, result.shape, -sign * form.scale), pair=(y, logs))


def of_pairs(one: Written, other: Written, sign: float) -> Written:
    """Binary: y log p + (1 - y) log(1 - p): the weights add up to one and the same number, and the p to one."""
    assert one.pair is not None
    assert other.pair is not None
    shape = one.pair[1].shape
    y, rest = one.pair[0] * one.scale, other.pair[0] * (other.scale * sign)
    whole = (y + rest).flatten()[0]
    p, q = one.pair[1].float().exp(), other.pair[1].float().exp()
    fits = ((y + rest - whole).abs() < AS_GOOD_AS_ONE * whole.abs()).all() & (
        (p + q - 1.0).abs() < AS_GOOD_AS_ONE
    ).all()

    def terms(weight: Tensor | None) -> Terms:
        found = of_outputs((y / whole).expand(shape), weight)
        return found._replace(valid=found.valid & fits)

    return new("binary_cross_entropy", terms, shape, whole)


def logistic(logit: Product, result: Tensor) -> Form | None:
    """Softplus(z) - y z: binary cross entropy of logits z.

    So are softplus(-z) + (1 - y) z and max(z, 0) - y z + log(1 + exp(-|z|)): whether all but the product is
    softplus(z), or that of -z, its numbers show.
    """
    z = logit.value()
    if z is None or z.shape != result.shape:
        return None
    z, g = z.detach().float(), logit.given.float().expand(z.shape)
    rest = result.detach().float() - g * z
    sign = torch.where(rest.sum() < 0.0, -1.0, 1.0)
    off, off_turned = ((sign * rest - softplus(side)).abs() for side in (z, -z))
    turned = off_turned.sum() < off.sum()
    y = torch.where(turned, 1.0 + sign * -g, sign * -g)
    rounded = AS_GOOD_AS_ONE + SAME_ROUNDED * torch.finfo(result.dtype).eps * z.abs()
    fits = (torch.where(turned, off_turned, off) < rounded).all() & ((y >= 0.0) & (y <= 1.0)).all()

    def terms(weight: Tensor | None) -> Terms:
        found = of_outputs(y, weight)
        return found._replace(valid=found.valid & fits)

    return new("binary_cross_entropy_with_logits", terms, result.shape, sign)


def pick(forms: Forms, args: Any, _kwargs: Any, result: Tensor) -> Form | None:
    """[i, labels] of rows in their order: the likelihood of each row's label. What only drops axes of one is a view."""
    value, index = args
    if isinstance(forms[0], (Written, Difference)):
        return chosen(forms[0], value, index, result)
    rows, labels = index if isinstance(index, tuple) and len(index) == 2 else (None, None)
    if not isinstance(labels, Tensor) or labels.dtype is not torch.int64 or labels.shape != value.shape[:1]:
        return view(forms, args, {}, result)
    if value.dim() != 2:
        return None
    in_order = None
    if isinstance(rows, Tensor) and rows.shape == (len(value),) and rows.dtype is torch.int64:
        in_order = (rows == torch.arange(len(value), device=rows.device)).all()
    elif not isinstance(rows, (range, list)) or list(rows) != list(range(len(value))):
        return None
    return pick_of(forms[0], Picked(labels, value.detach(), 1, in_order))


def gather(forms: Forms, args: Any, kwargs: Any, result: Tensor) -> Form | None:
    """Along an axis, one of each row."""
    axis, index = (kwargs.get(key, args[i] if len(args) > i else None) for i, key in ((1, "dim"), (2, "index")))
    value = args[0]
    if not isinstance(axis, int) or not isinstance(index, Tensor) or not value.dim():
        return None
    axis %= value.dim()
    rest = [(a, b) for i, (a, b) in enumerate(zip(value.shape, index.shape, strict=True)) if i != axis]
    if index.shape[axis] != 1 or any(a != b for a, b in rest):
        return None
    return pick_of(forms[0], Picked(index, value.detach(), axis, None))


def pick_of(form: Form | None, picked: Picked) -> Form | None:
    """Of logarithms, or of what may be probabilities."""
    if form is None or isinstance(form, Product):
        return picked
    if not isinstance(form, Logs):
        return None
    logs = replace(picked, rows=picked.rows / form.scale)
    known = form.axis == picked.axis
    return of_picked(logs, None if known else lambda: are_log_probabilities(logs.rows, logs.axis), form.scale)


def of_picked(picked: Picked, fits: Callable[[], Tensor] | None, scale: Scale = 1.0) -> Form:
    """The negative log likelihood of labels; `fits`: what must be true for that."""

    def terms(weight: Tensor | None) -> Terms:
        found = of_labels(picked.labels, picked.rows.shape[picked.axis], weight)
        for condition in (picked.in_order, fits() if fits is not None else None):
            found = found if condition is None else found._replace(valid=found.valid & condition)
        return found

    return new("cross_entropy", terms, picked.labels.shape, -scale)
