"""Squared and absolute errors: a (o - t) -> a^p |o - t|^p."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gradtrace.measure.written_out.forms import Difference, Form, Forms, new
from gradtrace.measure.written_out.weighted import Terms, of_errors

_POWERS = {2: "mse_loss", 1: "l1_loss"}


def raised(forms: Forms, args: Any, _kwargs: Any, result: Tensor) -> Form | None:
    """x^2; of other powers nothing is known."""
    return power_of(forms[0], 2, result) if len(args) == 2 and args[1] in (2, 2.0) else None


def square(forms: Forms, _args: Any, _kwargs: Any, result: Tensor) -> Form | None:
    """x^2."""
    return power_of(forms[0], 2, result)


def absolute(forms: Forms, _args: Any, _kwargs: Any, result: Tensor) -> Form | None:
    """|x|."""
    return power_of(forms[0], 1, result)


def power_of(form: Form | None, power: int, result: Tensor) -> Form | None:
    """|x|^p of a difference."""
    if not isinstance(form, Difference):
        return None
    whole = torch.broadcast_shapes(form.output, form.target.shape)
    given = None if form.factor is None else form.factor.expand(whole).abs().pow(power)

    def terms(weight: Tensor | None) -> Terms | None:
        w = given if weight is None else weight if given is None else weight * given
        return of_errors(form.target, form.output, power, form.bounds, w)

    size = form.scale.abs() if isinstance(form.scale, Tensor) else abs(form.scale)
    made = new(_POWERS[power], terms, whole, size**power)
    return made if result.shape == whole else replace(made, axes=None)
