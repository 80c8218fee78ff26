"""Which losses are written out in the user's own arithmetic? Those that are equal to one whose best constant is known.

What is made of an output o and of targets t is followed from function to function:

    a (o - t)  ->  a^p |o - t|^p                    squared and absolute errors; factors a that are given
    log p      ->  (log p)[i, t_i]                  likelihood of labels
    log p      ->  y log p, + (1 - y) log(1 - p)    of probabilities y, of classes or of each output
    z          ->  softplus(z) - y z                the same of logits

Sums, means, signs, masks and weights w that are given lead from there to one number, loss = c sum(w e): as c and w are
known, so is the mean error, loss / (c sum(w)), whatever the reduction. What is true of the right numbers only (the p
of a row add up to one, rows are picked in their order, c is positive) is computed, and where it does not hold nothing
is known.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradtrace.measure.written_out.choice import masked_fill, masked_select, where
from gradtrace.measure.written_out.errors import absolute, raised, square
from gradtrace.measure.written_out.forms import Form, Forms, Mixed, Written
from gradtrace.measure.written_out.likelihoods import gather, log_softmax, logarithm, pick, soft_plus, sum_of_exp
from gradtrace.measure.written_out.linear import average, cast, divide, negate, total, view
from gradtrace.measure.written_out.pairs import add, multiply, subtract
from gradtrace.tape.private import version_of

if TYPE_CHECKING:
    from gradtrace.measure.deferred import Deferred
    from gradtrace.measure.seen import Seen


class WrittenOut:
    """What is known of the values of one forward pass, as long as they live."""

    def __init__(self, deferred: Deferred) -> None:
        self._deferred = deferred
        self._known: dict[int, tuple[weakref.ref[Tensor], int, Form]] = {}

    def follow(self, name: str, args: Any, kwargs: Any, result: Any, seen: Seen) -> None:
        """See one call; where it makes one number that errors add up to, what that is held against is kept."""
        if type(result) is not Tensor or not result.requires_grad or result.layout is not torch.strided or not args:
            return  # (tensors of a kind of their own may ask other ranks for what they hold)
        forms = [self._form_of(arg) if isinstance(arg, Tensor) else None for arg in args]
        if name not in _STARTS and not any(forms):
            return
        with torch.no_grad():
            form = _MAKERS[name](forms, args, kwargs, result)
            if form is None:
                return
            if isinstance(form, Written) and not form.origin:
                form.origin.append(seen)
            if result.numel() == 1:
                is_new = any(isinstance(arg, Tensor) and arg.numel() > 1 for arg in args)
                form = self._kept(form, result, seen, is_new=is_new)
            key = id(result)
            gone = weakref.ref(result, lambda _: self._known.pop(key, None))
            self._known[key] = (gone, version_of(result), form)

    def _kept(self, form: Form, result: Tensor, seen: Seen, *, is_new: bool) -> Form:
        """What has become one number: of the same errors there may be several, of which one is the loss."""
        if isinstance(form, Mixed):
            parts = [self._kept(part, result, part.origin[0], is_new=is_new) for part in form.parts]
            return Mixed(tuple(part for part in parts if isinstance(part, Written)))
        if isinstance(form, Written):
            form = replace(form, holders=[]) if is_new else form
            self._keep(form, result, seen)
        return form

    def _keep(self, form: Written, result: Tensor, seen: Seen) -> None:
        """With the first call that makes it a number which falls as the errors do, unless a later one turns it."""
        rises = not isinstance(form.scale, Tensor) and form.scale <= 0.0
        if form.holders and not rises and not isinstance(form.scale, Tensor):
            return
        for holder in form.holders:
            holder.objective = holder.value = None
        form.holders.clear()
        found = None if rises else form.judged(result)
        if found is not None:
            seen.objective, seen.value = (self._deferred.put(numbers) for numbers in found)
            seen.written_out = form.function
            form.holders.append(seen)

    def _form_of(self, tensor: Tensor) -> Form | None:
        """What is known of a value, unless it was changed in place since."""
        known = self._known.get(id(tensor))
        return known[2] if known is not None and known[0]() is tensor and known[1] == version_of(tensor) else None


_STARTS = {
    *"sub subtract __sub__ mul multiply __mul__ __rmul__ __getitem__ gather".split(),
    *"log log1p log_softmax logsigmoid log_sigmoid softplus logsumexp".split(),
}
"""Functions that may begin a loss; all others go on with one."""

_MAKERS: dict[str, Callable[[Forms, Any, Any, Tensor], Form | None]] = {
    **dict.fromkeys("sub subtract __sub__".split(), subtract),
    **dict.fromkeys("add __add__ __radd__".split(), add),
    **dict.fromkeys("mul multiply __mul__ __rmul__".split(), multiply),
    **dict.fromkeys("div divide true_divide __truediv__".split(), divide),
    **dict.fromkeys("neg negative __neg__".split(), negate),
    **dict.fromkeys("pow __pow__".split(), raised),
    "square": square,
    **dict.fromkeys("abs absolute __abs__".split(), absolute),
    **dict.fromkeys("log log1p logsigmoid log_sigmoid".split(), logarithm),
    "log_softmax": log_softmax,
    "softplus": soft_plus,
    "logsumexp": sum_of_exp,
    "__getitem__": pick,
    "gather": gather,
    "masked_select": masked_select,
    "masked_fill": masked_fill,
    "where": where,
    **dict.fromkeys("view reshape flatten squeeze unsqueeze contiguous".split(), view),
    **dict.fromkeys("float double to".split(), cast),
    "sum": total,
    "mean": average,
}
FOLLOWED = frozenset(_MAKERS)
"""Names of functions that `WrittenOut.follow` takes."""
