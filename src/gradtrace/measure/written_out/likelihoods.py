"""Likelihoods: log p -> (log p)[i, t_i], and y log p, of classes or of each output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gradtrace.measure.objective import AS_GOOD_AS_ONE, are_log_probabilities
from gradtrace.measure.written_out.forms import Form, Forms, Logs, Picked, SumOfExp, Written, new
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


def sum_of_exp(_forms: Forms, _args: Any, _kwargs: Any, _result: Tensor) -> Form | None:
    """Log sum exp."""
    return SumOfExp()


def likelihood(form: Logs, given: Tensor, value: Tensor, result: Tensor) -> Form | None:
    """Likelihoods y log p, of classes as it seems."""
    logs, y = value.detach(), given.detach().float()
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

    return replace(new("cross_entropy", terms, result.shape, -sign), pair=(y, logs))


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


def pick(forms: Forms, args: Any, _kwargs: Any, result: Tensor) -> Form | None:
    """[i, labels] of rows in their order: the likelihood of each row's label. What only drops axes of one is a view."""
    value, index = args
    rows, labels = index if isinstance(index, tuple) and len(index) == 2 else (None, None)
    if not isinstance(labels, Tensor) or labels.dtype is not torch.int64 or labels.shape != value.shape[:1]:
        return view(forms, args, {}, result)
    if value.dim() != 2 or not isinstance(forms[0], (Logs, type(None))):
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
    if form is None:
        return picked
    if not isinstance(form, Logs):
        return None
    known = form.axis == picked.axis
    return of_picked(picked, None if known else lambda: are_log_probabilities(picked.rows, picked.axis))


def of_picked(picked: Picked, fits: Callable[[], Tensor] | None) -> Form:
    """The negative log likelihood of labels; `fits`: what must be true for that."""

    def terms(weight: Tensor | None) -> Terms:
        found = of_labels(picked.labels, picked.rows.shape[picked.axis], weight)
        for condition in (picked.in_order, fits() if fits is not None else None):
            found = found if condition is None else found._replace(valid=found.valid & condition)
        return found

    return new("cross_entropy", terms, picked.labels.shape, -1.0)
