"""What targets would a loss have wanted: in its range, or of the output's shape?

Their values are looked at: two of them are a choice, whole numbers from 0 are counted, and 255 is the brightest byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradtrace.errors import InputError
from gradtrace.measure.untouched import untouched
from gradtrace.records.change import Edit, SourceEdit
from gradtrace.repair.rewriting import Rewriting, Rule

if TYPE_CHECKING:
    from gradtrace.repair.situation import Situation

VIEWED = "({1}).view_as({x})"
BRIGHTEST = 255.0
"""Of eight bits."""
_OF_LOGITS, _OF_PROBABILITIES = "binary_cross_entropy_with_logits", "binary_cross_entropy"
_ERRORS = "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"


@dataclass(frozen=True, slots=True)
class Form:
    """What is wrong with a call, and the call that was meant."""

    title: str
    reason: str
    edit: SourceEdit
    numbers: tuple[tuple[str, float], ...] = ()
    source: str = ""


def named(function: str) -> str:
    """As code has it."""
    return f"torch.nn.functional.{function}"


def of_one_shape(source: str, situation: Situation) -> list[Form]:
    """Targets [batch] beside outputs [batch, 1] broadcast, which is not said by any error."""
    at_line = {op.function for op in situation.trace.ops if op.site.source == source}
    function = next((name for name in (*_ERRORS, "sub") if name in at_line), "")
    pairs = _seen(function, source, situation) if function else []
    if not pairs or any(len(pair) != 2 or pair[0].numel() != pair[1].numel() for pair in pairs):
        return []
    edit = SourceEdit(Edit.LAST if function == "sub" else Edit.SECOND, function, source, VIEWED)
    reason = "broadcast, each output is held against all targets, and their mean is the best that it can give"
    return [Form("Give output and targets the same shape.", reason, edit)]


def of_targets(source: str, situation: Situation) -> list[Form]:
    """Targets that are no probabilities: what they are is seen from their values."""
    at_line = [op.function for op in situation.trace.ops if op.site.source == source]
    if "cross_entropy" in at_line:
        return _of_one_output(source, situation)
    function = next((name for name in (_OF_LOGITS, _OF_PROBABILITIES) if name in at_line), "")
    values = _targets_seen(function, source, situation) if function else None
    if values is None or not len(values):
        return []
    low, high = float(values.min()), float(values.max())
    if len(values) == 2 or (high == BRIGHTEST and low >= 0.0):
        low = low if len(values) == 2 else 0.0
        return [
            Form(
                f"Bring the targets from [{low:g}, {high:g}] to [0, 1].",
                f"{function} expects probabilities; of others it has no minimum",
                SourceEdit(Edit.SECOND, function, source, _affine(low, high)),
                (("low", low), ("span", high - low)),
                f"documentation of {named(function)}",
            )
        ]
    if function != _OF_LOGITS:
        return []  # an output between 0 and 1 reaches no other targets, whatever the loss
    counts = low >= 0.0 and bool((values == values.round()).all())
    other = "poisson_nll_loss" if counts else "mse_loss"
    what = "whole numbers, of which the output is the rate's logarithm" if counts else "numbers of any size"
    return [
        Form(
            f"Take {other} in place of {function}: the targets are {what}.",
            f"{function} expects probabilities; of others it has no minimum"
            + ("; class numbers would want an output for each class, and cross_entropy" if counts else ""),
            SourceEdit(Edit.RENAME, function, source, named(other)),
            source=f"documentation of {named(other)}",
        )
    ]


def _of_one_output(source: str, situation: Situation) -> list[Form]:
    """Cross entropy over a single class, which is nought: class numbers say nothing then, probabilities do."""
    pairs = _seen("cross_entropy", source, situation)
    if not pairs or any(len(pair) != 2 or pair[0].shape != pair[1].shape for pair in pairs):
        return []
    low, high = (float(of([of([pair[1].min(), pair[1].max()]) for pair in pairs])) for of in (min, max))
    if low < 0.0 or high > 1.0 or low == high:
        return []
    return [
        Form(
            f"Take {_OF_LOGITS} in place of cross_entropy: there is a single output.",
            "a softmax over one entry is one, whatever comes in",
            SourceEdit(Edit.RENAME, "cross_entropy", source, named(_OF_LOGITS)),
            source=f"documentation of {named('cross_entropy')}",
        )
    ]


def _affine(low: float, high: float) -> str:
    shifted = f"({{1}}) - {low:g}" if low > 0.0 else f"({{1}}) + {-low:g}" if low < 0.0 else "({1})"
    span = high - low
    return shifted if span == 1.0 else f"({shifted}) / {span:g}" if low else f"{shifted} / {span:g}"


def _targets_seen(function: str, source: str, situation: Situation) -> Tensor | None:
    """The values that occur, each once; None where they could not be looked at."""
    seen = [pair[1].flatten().float().unique() for pair in _seen(function, source, situation) if len(pair) == 2]
    return torch.cat(seen).unique() if seen else None


def _seen(function: str, source: str, situation: Situation) -> list[tuple[Tensor, ...]]:
    """First and second argument of the call, batch by batch; none where they could not be looked at."""
    seen: list[tuple[Tensor, ...]] = []

    def look(called: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        both = args[:1] or (kwargs.get("input"),), (second(args, kwargs),)
        seen.append(tuple(one.detach() for pair in both for one in pair if isinstance(one, Tensor)))
        return called(*args, **kwargs)

    rules = (Rule(frozenset({function}), source, look),)
    try:
        with untouched(situation.model), torch.no_grad(), Rewriting(rules):
            for batch in situation.batches:
                situation.loss_fn(situation.model, batch)
    except (InputError, RuntimeError, ValueError, TypeError, LookupError):
        return []
    return seen


def second(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Of a loss: what the output is held against."""
    target: Tensor = args[1] if len(args) > 1 else kwargs["target"]
    return target
