"""Against a loss that asks for the wrong thing: what it was meant to ask, and by that all networks are measured.

Scores where log probabilities belong, targets outside of [0, 1] under a cross entropy of probabilities, an error with a
minus before it: such a loss falls for ever, or is nought for half of the targets, and whoever lowers it most has learnt
nothing. The network as it came and its placebos are trained on it, and held against the others by the mended one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gradtrace.diagnosis.wording import has_no_minimum
from gradtrace.errors import InputError
from gradtrace.measure.untouched import untouched
from gradtrace.records.change import OBJECTIVE, Change, Edit, SourceEdit
from gradtrace.remedies.of_losses import FOR_CLASSES, FOR_MARGINS, NO_MINUS, OVER_CLASSES, log_probabilities
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.rewriting import Rewriting, Rule
from gradtrace.repair.twin import RefusalError

if TYPE_CHECKING:
    from gradtrace.records.finding import Finding
    from gradtrace.repair.situation import Situation
    from gradtrace.repair.twin import Twin

_OF_LOGITS, _OF_PROBABILITIES = "binary_cross_entropy_with_logits", "binary_cross_entropy"
_SOFTMAXES = "log_softmax", "softmax"
_FUNCTIONAL = "torch.nn.functional"
NOTE = "the loss as it came is no measure of what is learnt: all networks are measured by the mended one"
CLASSES = 1
"""Axis of the classes, for `nll_loss`: [batch, classes, ...]."""
BRIGHTEST = 255.0
"""Of eight bits."""


@dataclass(frozen=True, slots=True)
class _Form:
    """One way of asking for the wrong thing."""

    title: str
    reason: str
    edit: SourceEdit
    numbers: tuple[tuple[str, float], ...] = ()
    source: str = ""


def propose(situation: Situation) -> list[Change]:
    """The first of the findings that says what was meant."""
    forms = [form for finding in situation.findings if finding.source for form in _forms(finding, situation)]
    return [_change(form) for form in forms[:1]]


def measured_by(changes: Sequence[Change]) -> tuple[Rule, ...]:
    """What the loss is to be rewritten by where networks are held against each other; none where it is a measure."""
    return tuple(rule_of(change) for change in changes if change.kind == OBJECTIVE)


def apply(change: Change, twin: Twin) -> None:
    """The call rewritten, in training and where it is measured."""
    twin.rules.append(rule_of(change))


def rule_of(change: Change) -> Rule:
    """The change as a rule."""
    edit = change.edits[0]
    return Rule(frozenset({edit.function}), edit.source, _replacement(change))


def _change(form: _Form) -> Change:
    edit = form.edit
    return Change(
        kind=OBJECTIVE,
        title=form.title,
        where=(edit.source,),
        reason=form.reason,
        words=(("how", _how(edit)), ("function", edit.function), ("source", edit.source)),
        numbers=form.numbers,
        edits=(edit,),
        code=f"# {edit.source}: {_code(edit)}",
        source=form.source,
    )


def _how(edit: SourceEdit) -> str:
    if edit.edit is Edit.UNSIGNED or edit.text == "-{call}":
        return "turned"
    if edit.function in _SOFTMAXES:
        return "classes"
    return "targets" if edit.edit is Edit.SECOND else "scores" if edit.edit is Edit.ARGUMENT else "other"


def _code(edit: SourceEdit) -> str:
    if edit.edit is Edit.UNSIGNED:
        return f"{edit.function}(...), without the minus before it"
    if edit.edit is Edit.RENAME:
        return f"{edit.text}(...)"
    arguments = {"{x}": "output", "({1})": "target", "{call}": f"{edit.function}(...)"}
    text = edit.text
    for place, name in arguments.items():
        text = text.replace(place, name)
    return text


def _forms(finding: Finding, situation: Situation) -> list[_Form]:
    remedies, source = finding.remedies, finding.source
    found: list[_Form] = []
    if has_no_minimum(finding) and remedies == log_probabilities("nll_loss"):
        edit = SourceEdit(Edit.RENAME, "nll_loss", _line_of("nll_loss", source, situation), _name("cross_entropy"))
        found.append(_of_scores("nll_loss", "cross_entropy in place of nll_loss, which does not normalise", edit))
    if has_no_minimum(finding) and remedies == log_probabilities("kl_div"):
        line = _line_of("kl_div", source, situation)
        edit = SourceEdit(Edit.ARGUMENT, "kl_div", line, f"{_name('log_softmax')}({{x}}, dim=-1)")
        found.append(_of_scores("kl_div", "the log_softmax of the scores to kl_div", edit))
    if NO_MINUS in remedies:
        found += _turned(source, situation)
    if FOR_CLASSES in remedies:
        found += _of_targets(source, situation)
    if OVER_CLASSES in remedies:
        found += _over_classes(source, situation)
    if FOR_MARGINS in remedies:
        found.append(
            _Form(
                "Make the labels of 0 and 1 into -1 and 1, as a loss of margins expects.",
                "a label of 0 takes the output out of the loss, whatever it is",
                SourceEdit(Edit.SECOND, "soft_margin_loss", source, "2.0 * ({1}) - 1.0"),
                (("low", 0.5), ("span", 0.5)),
                "documentation of torch.nn.SoftMarginLoss",
            )
        )
    return found


def _name(function: str) -> str:
    return f"{_FUNCTIONAL}.{function}"


def _of_scores(function: str, what: str, edit: SourceEdit) -> _Form:
    return _Form(
        f"Give {what}.", f"{function} of scores is linear in them, and falls for ever", edit,
        source="documentation of torch.nn.NLLLoss and torch.nn.KLDivLoss",
    )  # fmt: skip


def _line_of(function: str, source: str, situation: Situation) -> str:
    """Of the call of the loss: the finding's own place may be that of what it is given."""
    lines = {op.site.source for op in situation.trace.ops if op.function == function and op.site.source}
    return source if source in lines or len(lines) != 1 else lines.pop()


def _turned(source: str, situation: Situation) -> list[_Form]:
    """An error behind a minus, or log probabilities without one."""
    at_line = [op for op in situation.trace.ops if op.site.source == source]
    known = next((op for op in at_line if op.objective is not None), None)
    if known is not None and known.objective is not None:
        function = known.objective.function or known.function
        edit = SourceEdit(Edit.UNSIGNED, function, source)
    elif any(op.function == "mean" for op in at_line):
        function, edit = "mean", SourceEdit(Edit.CALL, "mean", source, "-{call}")
    else:
        return []
    title = {Edit.UNSIGNED: f"Minimise {function} itself: take the minus before it away."}.get(
        edit.edit, "Minimise minus the log likelihood: it wants a minus."
    )
    return [_Form(title, "the error has no upper bound, and each step makes it larger", edit)]


def _over_classes(source: str, situation: Situation) -> list[_Form]:
    at_line = {op.function for op in situation.trace.ops if op.site.source == source}
    return [
        _Form(
            f"Take the {function} over the classes, dim={CLASSES}.",
            "samples (or positions) compete for each class, and the loss cannot come near zero",
            SourceEdit(Edit.CALL, function, source, f"{_name(function)}({{x}}, dim={CLASSES})"),
            source="documentation of torch.nn.NLLLoss",
        )
        for function in _SOFTMAXES
        if function in at_line
    ]


# ------------------------------------------------------------------------------------------------------------ targets


def _of_targets(source: str, situation: Situation) -> list[_Form]:
    """Targets that are no probabilities: what they are is seen from their values."""
    at_line = [op.function for op in situation.trace.ops if op.site.source == source]
    function = next((name for name in (_OF_LOGITS, _OF_PROBABILITIES) if name in at_line), "")
    values = _targets_seen(function, source, situation) if function else None
    if values is None or not len(values):
        return []
    low, high = float(values.min()), float(values.max())
    if len(values) == 2 or (high == BRIGHTEST and low >= 0.0):
        low = low if len(values) == 2 else 0.0
        return [
            _Form(
                f"Bring the targets from [{low:g}, {high:g}] to [0, 1].",
                f"{function} expects probabilities; of others it has no minimum",
                SourceEdit(Edit.SECOND, function, source, _affine(low, high)),
                (("low", low), ("span", high - low)),
                f"documentation of {_name(function)}",
            )
        ]
    if function != _OF_LOGITS:
        return []  # an output between 0 and 1 reaches no other targets, whatever the loss
    counts = low >= 0.0 and bool((values == values.round()).all())
    other = "poisson_nll_loss" if counts else "mse_loss"
    what = "whole numbers, of which the output is the rate's logarithm" if counts else "numbers of any size"
    return [
        _Form(
            f"Take {other} in place of {function}: the targets are {what}.",
            f"{function} expects probabilities; of others it has no minimum"
            + ("; class numbers would want an output for each class, and cross_entropy" if counts else ""),
            SourceEdit(Edit.RENAME, function, source, _name(other)),
            source=f"documentation of {_name(other)}",
        )
    ]


def _affine(low: float, high: float) -> str:
    shifted = f"({{1}}) - {low:g}" if low > 0.0 else f"({{1}}) + {-low:g}" if low < 0.0 else "({1})"
    span = high - low
    return shifted if span == 1.0 else f"({shifted}) / {span:g}" if low else f"{shifted} / {span:g}"


def _targets_seen(function: str, source: str, situation: Situation) -> Tensor | None:
    """The values that occur, each once; None where they could not be looked at."""
    seen: list[Tensor] = []

    def look(called: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        seen.append(_second(args, kwargs).detach().flatten().float().unique())
        return called(*args, **kwargs)

    rules = (Rule(frozenset({function}), source, look),)
    try:
        with untouched(situation.model), torch.no_grad(), Rewriting(rules):
            for batch in situation.batches:
                situation.loss_fn(situation.model, batch)
    except (InputError, RuntimeError, ValueError, TypeError, LookupError):
        return None
    return torch.cat(seen).unique() if seen else None


def _second(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    target: Tensor = args[1] if len(args) > 1 else kwargs["target"]
    return target


# -------------------------------------------------------------------------------------------------------- rewritten


def _replacement(change: Change) -> Callable[..., Any]:
    how, edit = change.word("how"), change.edits[0]
    if how == "turned":
        return lambda function, args, kwargs: -function(*args, **kwargs)
    if how == "scores":
        return lambda function, args, kwargs: function(F.log_softmax(args[0], dim=-1), *args[1:], **kwargs)
    if how == "classes":
        function = getattr(F, edit.function)
        return lambda _function, args, kwargs: function(args[0] if args else kwargs["input"], dim=CLASSES)
    if how == "targets":
        low, span = change.number("low"), change.number("span")
        return lambda function, args, kwargs: _with_targets(function, args, kwargs, low, span)
    other = getattr(F, edit.text.rpartition(".")[2])
    return lambda _function, args, kwargs: _as_other(other, args, kwargs)


def _with_targets(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], low: float, span: float) -> Any:
    new = (_second(args, kwargs) - low) / span
    if len(args) > 1:
        return function(args[0], new, *args[2:], **kwargs)
    return function(*args, **{**kwargs, "target": new})


def _as_other(other: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    left = {name: value for name, value in kwargs.items() if value is not None}
    known = {"input", "target", "reduction", *(("weight", "ignore_index") if other is F.cross_entropy else ())}
    if any(arg is not None for arg in args[2:]) or set(left) - known:
        raise RefusalError("the call has arguments that the other loss does not know")
    return other(*args[:2], **left)


KIND = Kind(propose, apply)
