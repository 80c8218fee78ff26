"""Squared and absolute errors: a (o - t) -> a^p |o - t|^p."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gradtrace.measure.broadcasting import broadcast_shape
from gradtrace.measure.written_out.forms import Difference, Form, Forms, Written, new
from gradtrace.measure.written_out.weighted import Terms, of_errors

_POWERS = {2: "mse_loss", 1: "l1_loss"}

SAME_ROUNDED = 4.0
"""[eps of the format] Two values of one formula differ by no more: each comes of a difference and a factor."""


def raised(forms: Forms, args: Any, _kwargs: Any, result: Tensor) -> Form | None:
    """x^2; of other powers nothing is known."""
    return power_of(forms[0], 2, result) if len(args) == 2 and args[1] in (2, 2.0) else None


def square(forms: Forms, _args: Any, _kwargs: Any, result: Tensor) -> Form | None:
    """x^2."""
    return power_of(forms[0], 2, result)


def absolute(forms: Forms, _args: Any, _kwargs: Any, result: Tensor) -> Form | None:
    """|x|."""
    return power_of(forms[0], 1, result)


def product(one: Difference, other: Difference, args: Any, result: Tensor) -> Form | None:
    """(o - t) (o - t), computed twice or turned round: a square where one is c times the other in all its numbers."""
    made = power_of(one, 2, result)
    if args[0].shape != args[1].shape or made is None:
        return None
    a, b = args[0].float() / one.scale, args[1].float() / other.scale
    sign = torch.where((a * b).sum() < 0.0, -1.0, 1.0)
    fits = (sign * a - b).abs().amax() <= SAME_ROUNDED * torch.finfo(result.dtype).eps * a.abs().amax()

    def terms(weight: Tensor | None) -> Terms | None:
        found = made.terms(weight)
        return None if found is None else found._replace(valid=found.valid & fits)

    return replace(made, terms=terms, scale=one.scale * other.scale * sign)


def power_of(form: Form | None, power: int, result: Tensor) -> Written | None:
    """|x|^p of a difference."""
    if not isinstance(form, Difference):
        return None
    whole = broadcast_shape(form.output, form.target.shape)
    given = None if form.factor is None else form.factor.expand(whole).abs().pow(power)

    def terms(weight: Tensor | None) -> Terms | None:
        w = given if weight is None else weight if given is None else weight * given
        return of_errors(form.target, form.output, power, form.bounds, w)

    size = form.scale.abs() if isinstance(form.scale, Tensor) else abs(form.scale)
    made = new(_POWERS[power], terms, whole, size**power)
    return made if result.shape == whole else replace(made, axes=None)
