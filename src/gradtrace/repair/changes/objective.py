"""Against a loss that asks for the wrong thing: what it was meant to ask, and by that all networks are measured.

Scores where log probabilities belong, targets outside of [0, 1] under a cross entropy of probabilities, an error with a
minus before it: such a loss falls for ever, or is nought for half of the targets, and whoever lowers it most has learnt
nothing. The network as it came and its placebos are trained on it, and held against the others by the mended one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch.nn import functional as F

from gradtrace.diagnosis.wording import has_no_minimum
from gradtrace.records.change import OBJECTIVE, Change, Edit, SourceEdit
from gradtrace.remedies.of_losses import FOR_CLASSES, FOR_MARGINS, NO_MINUS, OVER_CLASSES, SAME_SHAPE, log_probabilities
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.changes.targets import VIEWED, Form, named, of_one_shape, of_targets, second
from gradtrace.repair.rewriting import Rule
from gradtrace.repair.twin import RefusalError

if TYPE_CHECKING:
    from torch import Tensor

    from gradtrace.records.finding import Finding
    from gradtrace.repair.situation import Situation
    from gradtrace.repair.twin import Twin

_DEFAULTS = {"ignore_index": -100, "label_smoothing": 0.0}
_SOFTMAXES = "log_softmax", "softmax"
NOTE = "the loss as it came is no measure of what is learnt: all networks are measured by the mended one"
CLASSES = 1
"""Axis of the classes, for `nll_loss`: [batch, classes, ...]."""


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


def _change(form: Form) -> Change:
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
    if edit.text == VIEWED:
        return "shape"
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


def _forms(finding: Finding, situation: Situation) -> list[Form]:
    remedies, source = finding.remedies, finding.source
    found: list[Form] = []
    if has_no_minimum(finding) and remedies == log_probabilities("nll_loss"):
        edit = SourceEdit(Edit.RENAME, "nll_loss", _line_of("nll_loss", source, situation), named("cross_entropy"))
        found.append(_of_scores("nll_loss", "cross_entropy in place of nll_loss, which does not normalise", edit))
    for name in ("kl_div", "ctc_loss"):
        if has_no_minimum(finding) and remedies == log_probabilities(name):
            line = _line_of(name, source, situation)
            edit = SourceEdit(Edit.ARGUMENT, name, line, f"{named('log_softmax')}({{x}}, dim=-1)")
            found.append(_of_scores(name, f"the log_softmax of the scores to {name}", edit))
    if NO_MINUS in remedies:
        found += _turned(source, situation)
    if FOR_CLASSES in remedies:
        found += of_targets(source, situation)
    if OVER_CLASSES in remedies:
        found += _over_classes(source, situation)
    if SAME_SHAPE in remedies:
        found += of_one_shape(source, situation)
    if FOR_MARGINS in remedies:
        found.append(
            Form(
                "Make the labels of 0 and 1 into -1 and 1, as a loss of margins expects.",
                "a label of 0 takes the output out of the loss, whatever it is",
                SourceEdit(Edit.SECOND, "soft_margin_loss", source, "2.0 * ({1}) - 1.0"),
                (("low", 0.5), ("span", 0.5)),
                "documentation of torch.nn.SoftMarginLoss",
            )
        )
    return found


def _of_scores(function: str, what: str, edit: SourceEdit) -> Form:
    return Form(
        f"Give {what}.", f"{function} of scores is linear in them, and falls for ever", edit,
        source="documentation of torch.nn.NLLLoss and torch.nn.KLDivLoss",
    )  # fmt: skip


def _line_of(function: str, source: str, situation: Situation) -> str:
    """Of the call of the loss: the finding's own place may be that of what it is given."""
    lines = {op.site.source for op in situation.trace.ops if op.function == function and op.site.source}
    return source if source in lines or len(lines) != 1 else lines.pop()


def _turned(source: str, situation: Situation) -> list[Form]:
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
    return [Form(title, "the error has no upper bound, and each step makes it larger", edit)]


def _over_classes(source: str, situation: Situation) -> list[Form]:
    at_line = {op.function for op in situation.trace.ops if op.site.source == source}
    return [
        Form(
            f"Take the {function} over the classes, dim={CLASSES}.",
            "samples (or positions) compete for each class, and the loss cannot come near zero",
            SourceEdit(Edit.CALL, function, source, f"{named(function)}({{x}}, dim={CLASSES})"),
            source="documentation of torch.nn.NLLLoss",
        )
        for function in _SOFTMAXES
        if function in at_line
    ]


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
    if how == "shape":
        return lambda function, args, kwargs: _with_second(
            function, args, kwargs, second(args, kwargs).view_as(args[0] if args else kwargs["input"])
        )
    if how == "targets":
        low, span = change.number("low"), change.number("span")
        return lambda function, args, kwargs: _with_second(function, args, kwargs, (second(args, kwargs) - low) / span)
    other = getattr(F, edit.text.rpartition(".")[2])
    return lambda _function, args, kwargs: _as_other(other, args, kwargs)


def _with_second(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], new: Tensor) -> Any:
    if len(args) > 1:
        return function(args[0], new, *args[2:], **kwargs)
    return function(*args, **{**kwargs, "target": new})


def _as_other(other: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    left = {name: value for name, value in kwargs.items() if value is not None and _DEFAULTS.get(name) != value}
    known = {"input", "target", "reduction", *(("weight", "ignore_index") if other is F.cross_entropy else ())}
    if any(arg is not None for arg in args[2:]) or set(left) - known:
        raise RefusalError("the call has arguments that the other loss does not know")
    return other(*args[:2], **left)


KIND = Kind(propose, apply)
