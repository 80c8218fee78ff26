"""Two values, added, subtracted or multiplied: differences, weights, likelihoods, terms that count each by itself."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

from torch import Tensor

from gradtrace.measure.objective import range_of
from gradtrace.measure.written_out.errors import power_of, product
from gradtrace.measure.written_out.forms import (
    Difference,
    Form,
    Forms,
    Logs,
    Mixed,
    Product,
    SumOfExp,
    Written,
    is_given,
)
from gradtrace.measure.written_out.likelihoods import likelihood, logistic, of_pairs
from gradtrace.measure.written_out.linear import scaled


def add(forms: Forms, args: Any, kwargs: Any, result: Tensor) -> Form | None:
    """A + b."""
    return None if kwargs or len(args) != 2 else joined(forms, args, result, 1.0)


def subtract(forms: Forms, args: Any, kwargs: Any, result: Tensor) -> Form | None:
    """A - b."""
    if kwargs or len(args) != 2:
        return None
    if isinstance(forms[1], SumOfExp):
        return Logs()
    if any(isinstance(form, (Written, Mixed)) for form in forms) or {Logs, Product} <= {*map(type, forms)}:
        return joined(forms, args, result, -1.0)
    sides = [side for side in args if isinstance(side, Tensor)]
    outputs = [side for side in sides if side.grad_fn is not None]
    targets = [side for side in sides if not side.requires_grad and side.numel() > 1]
    if len(outputs) == 2:
        return with_logit(forms, result, -1.0)
    if len(outputs) != 1 or len(targets) != 1 or result.is_complex():
        return None
    return Difference(targets[0], outputs[0].shape, range_of(outputs[0].grad_fn))


def multiply(forms: Forms, args: Any, kwargs: Any, result: Tensor) -> Form | None:
    """A b."""
    if kwargs or len(args) != 2:
        return None
    if isinstance(forms[0], Difference) and args[0] is args[1]:
        return power_of(forms[0], 2, result)
    if isinstance(forms[0], Difference) and isinstance(forms[1], Difference):
        return product(forms[0], forms[1], args, result)
    (form, value, given) = (forms[0], args[0], args[1]) if forms[0] is not None else (forms[1], args[1], args[0])
    if form is not None and not is_given(given):
        return None
    if isinstance(form, Logs) and isinstance(given, Tensor) and given.numel() > 1:
        return likelihood(form, given, value, result)
    if form is None:
        return scaled_logit(args, result)
    return scaled(form, given, result)


def scaled_logit(args: Any, result: Tensor) -> Form | None:
    """Y z: nothing by itself, and beside softplus(z) half of a loss."""
    value, given = args if is_given(args[1]) else reversed(args)
    if not isinstance(given, Tensor) or given.numel() == 1 or not isinstance(value, Tensor):
        return None
    return Product(given, weakref.ref(value)) if is_given(given) and value.shape == result.shape else None


def joined(forms: Forms, args: Any, result: Tensor, sign: float) -> Form | None:
    """What two values add up to: a binary cross entropy, or terms that count each by itself."""
    one, other = forms
    pairs = [form.pair for form in forms if isinstance(form, Written) and form.pair is not None]
    if len(pairs) == 2 and all(logs.shape == result.shape for _, logs in pairs):
        assert isinstance(one, Written)
        assert isinstance(other, Written)
        return of_pairs(one, other, sign)
    if any(forms) and not any(isinstance(form, (Written, Mixed)) for form in forms):
        return with_logit(forms, result, sign)
    parts: list[Written] = []
    for form, value, each in zip(forms, args, (1.0, sign), strict=True):
        if isinstance(form, Mixed):
            parts += [replace(part, scale=part.scale * each) for part in form.parts]
        elif isinstance(form, Written):
            total = value.detach().float().sum() / form.scale
            parts.append(replace(form, total=total, scale=form.scale * each, pair=None))
    return Mixed(tuple(parts)) if parts else None


def with_logit(forms: Forms, result: Tensor, sign: float) -> Form | None:
    """What comes to a logarithm or to y z, which are looked at once both have met."""
    one, other = forms
    if isinstance(one, Product) and isinstance(other, (Logs, type(None))):
        logit = one
    elif isinstance(other, Product) and isinstance(one, (Logs, type(None))):
        logit = replace(other, given=other.given * sign)
    else:
        return Logs() if {*map(type, forms)} == {Logs, type(None)} else None
    return logit if None in forms else logistic(logit, result)
