"""A loss that fits its output: logits where logits are expected, no flat clip, no rounding, cross-entropy for a class.

Huber in place of a flat clip min(s, c) of a squared error s = e^2: with m = min(s, c), held fixed on the way back,

    2 sqrt(m s) - m  =  s  up to c,  2 sqrt(c) |e| - c  beyond:  the gradient of an outlier is bounded, and not zero

Huber, Robust estimation of a location parameter (1964), for the threshold sqrt(c).

Cross-entropy of a sigmoid has the gradient p - t, where the squared error has (p - t) p (1 - p): next to nothing on the
flat part (Golik et al., Cross-entropy vs. squared error training, 2013; Nielsen, 2015, chapter 3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradtrace.records.change import Change, Edit, SourceEdit
from gradtrace.records.vocabulary import Cause, Factor
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.changes.output import is_of_torch
from gradtrace.repair.rewriting import Rule
from gradtrace.repair.twin import RefusalError, Twin, replace_module, take_over

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.records.trace import Op
    from gradtrace.repair.situation import Situation

_CAUSES = {Cause.LOSS_FUNCTION, Cause.SATURATED_PREACTIVATION, Cause.ACTIVATION_DERIVATIVE, Cause.DETACHED_GRAPH,
           Cause.UNSAFE_OP}  # fmt: skip
_LOGITS = {"cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy_loss"}
_SQUASH = {"softmax", "sigmoid", "log_softmax"}
_SQUARES = {"mse_loss", "l1_loss", "smooth_l1_loss"}
_CLIPS = {"clamp", "clip", "clamp_max", "clamp_min", "minimum", "maximum"}
_OF_SQUARES = {"mse_loss", "square", "pow"}
_STEPS = {"round", "floor", "ceil", "sign", "trunc"}


def propose(situation: Situation) -> list[Change]:
    """What the ops between the last layer and the loss suggest."""
    if not _CAUSES & set(situation.causes):
        return []
    behind = [op for op in situation.trace.ops if situation.paths.depths[op.index] == 0 and not op.weights]
    functions = {op.function for op in behind}
    squashes = [op for op in behind if op.function in _SQUASH and op.factor in (Factor.ACTIVATION, Factor.LOSS)]
    found: list[Change] = []
    if functions & _LOGITS:
        found += [_logits(op, situation) for op in squashes]
    if functions & {"nll_loss"}:
        found += [_log(op, situation) for op in squashes if op.function == "softmax"]
    if functions & _SQUARES and (squash := _of_probabilities(squashes)):
        found += [_cross_entropy(op, squash) for op in behind if op.function in _SQUARES][:1]
    if any(op.function == "softmax" and _is_single(op) for op in squashes):
        found += [_sigmoid(op, situation) for op in squashes if op.function == "softmax"][:1]
    clips = [op for op in behind if op.function.rstrip("_") in _CLIPS]
    squares = [op for op in clips if _operand(op, situation) in _OF_SQUARES and not op.function.endswith("_")]
    found += [_huber(op) for op in squares]
    found += [_through(op, "clip") for op in clips]
    if {Cause.LOSS_FUNCTION, Cause.DETACHED_GRAPH, Cause.ACTIVATION_DERIVATIVE} & set(situation.causes):
        found += [_through(op, "step") for op in situation.trace.ops if op.function.rstrip("_") in _STEPS]
    return list({(change.title, change.where): change for change in found}.values())


def _is_single(op: Op) -> bool:
    return op.received is not None and bool(op.received.shape) and op.received.shape[-1] == 1


def _place(op: Op) -> tuple[str, str]:
    """(module path or '', source line)."""
    return op.site.module or "", op.site.source


def _logits(op: Op, situation: Situation) -> Change:
    path, source = _place(op)
    own = path and is_of_torch(situation.model, path)
    return Change(
        kind="loss",
        title=f"Give the loss raw logits: no {op.function} before it.",
        where=(path if own else source,),
        reason=f"the loss applies its own {op.function.replace('log_', '')}; twice, it is flat where it is most wrong; "
        "what else reads the output reads logits from then on",
        words=(("what", "drop"), ("function", op.function), ("module", path if own else ""), ("source", source)),
        edits=(SourceEdit(Edit.CALL, op.function, source, "{x}"),) if not own else (),
        code=f"model.set_submodule({path!r}, torch.nn.Identity())"
        if own
        else f"# {source}: without {op.function}(...)",
        source="documentation of torch.nn.CrossEntropyLoss",
    )


def _log(op: Op, situation: Situation) -> Change:
    path, source = _place(op)
    own = path and is_of_torch(situation.model, path)
    dim = getattr(situation.model.get_submodule(path), "dim", None) if own else None
    return Change(
        kind="loss",
        title="Give nll_loss log probabilities: log_softmax in place of softmax.",
        where=(path if own else source,),
        reason="-p is flat where the network is sure of the wrong class, -log p is steepest there",
        words=(("what", "log"), ("function", op.function), ("module", path if own else ""), ("source", source)),
        edits=(SourceEdit(Edit.CALL, op.function, source, "torch.nn.functional.log_softmax({x}{rest})"),)
        if not own
        else (),
        code=f"model.set_submodule({path!r}, torch.nn.LogSoftmax(dim={dim}))"
        if own
        else f"# {source}: log_softmax(...)",
        source="documentation of torch.nn.NLLLoss",
    )


def _of_probabilities(squashes: list[Op]) -> str:
    """The squashing function whose values lie between 0 and 1; '' without one, and for one of a single output."""
    return next((op.function for op in squashes if op.function in ("sigmoid", "softmax") and not (
        op.function == "softmax" and _is_single(op))), "")  # fmt: skip


def _cross_entropy(op: Op, squash: str) -> Change:
    _, source = _place(op)
    return Change(
        kind="loss",
        title=f"Train the {squash} on binary cross-entropy instead of {op.function}.",
        where=(source,),
        reason="its gradient is p - t, without the factor p (1 - p) that vanishes where the output is sure",
        words=(("what", "bce"), ("function", op.function), ("module", ""), ("source", source)),
        edits=(SourceEdit(Edit.RENAME, op.function, source, "torch.nn.functional.binary_cross_entropy"),),
        code=f"# {source}: torch.nn.functional.binary_cross_entropy(output, target)",
        source="Golik et al. 2013",
    )


def _sigmoid(op: Op, situation: Situation) -> Change:
    path, source = _place(op)
    own = path and is_of_torch(situation.model, path)
    return Change(
        kind="loss",
        title="Use a sigmoid: a softmax over a single output is one whatever comes in.",
        where=(path if own else source,),
        reason="a constant has no gradient",
        words=(("what", "sigmoid"), ("function", op.function), ("module", path if own else ""), ("source", source)),
        edits=(SourceEdit(Edit.CALL, "softmax", source, "torch.sigmoid({x})"),) if not own else (),
        code=f"model.set_submodule({path!r}, torch.nn.Sigmoid())" if own else f"# {source}: torch.sigmoid(...)",
        source="DeepLocalize (Wardat et al. 2021)",
    )


def _operand(op: Op, situation: Situation) -> str:
    """The function whose value it is applied to."""
    target = op.targets[0] if op.targets else None
    return situation.trace.ops[target[0]].function.rstrip("_") if target is not None else ""


def _huber(op: Op) -> Change:
    _, source = _place(op)
    linear = "({call}.detach() * {x}).clamp_min(torch.finfo({x}.dtype).tiny).sqrt()"
    text = f"(2 * {linear} - {{call}}.detach())"
    return Change(
        kind="loss",
        title=f"Let the squared error go on as a straight line where {op.function} cuts it off (Huber).",
        where=(source,),
        reason="an outlier then pulls no harder than an error at the threshold, and is not given up",
        words=(("what", "huber"), ("function", op.function), ("module", ""), ("source", source)),
        edits=(SourceEdit(Edit.CALL, op.function.rstrip("_"), source, text),),
        code=f"# {source}: torch.nn.functional.huber_loss(output, target, delta=threshold**0.5) * 2",
        source="Huber 1964",
    )


def _through(op: Op, why: str) -> Change:
    _, source = _place(op)
    clip = why == "clip"
    return Change(
        kind="loss",
        title=f"Let the gradient pass through {op.function}: the value stays, the slope is one.",
        where=(source,),
        reason="what is cut off gets no gradient, and stays there" if clip else "its derivative is zero, exactly",
        words=(("what", "through"), ("function", op.function), ("module", ""), ("source", source)),
        edits=(SourceEdit(Edit.CALL, op.function.rstrip("_"), source, "({x} + ({call} - {x}).detach())"),),
        code=f"# {source}: y = {op.function}(x, ...) becomes y = x + ({op.function}(x, ...) - x).detach()",
        source="Bengio, Leonard & Courville 2013",
    )


def apply(change: Change, twin: Twin) -> None:
    """A module made the identity, or a call rewritten."""
    what, path, source = change.word("what"), change.word("module"), change.word("source")
    function = change.word("function")
    if path:
        old = twin.model.get_submodule(path)
        new = take_over(_stand_in(what, old), old)
        replace_module(twin.model, old, new)
        if what in ("drop", "log"):
            twin.scored_with.append((new, old))
        return
    if not source:
        raise RefusalError("the line of the call is not known")
    twin.rules.append(
        Rule(frozenset({function.rstrip("_")}), source, REPLACEMENTS[what], what in ("drop", "log", "bce", "huber"))
    )


def _stand_in(what: str, old: nn.Module) -> nn.Module:
    if what == "log":
        dim: Any = getattr(old, "dim", None)
        return nn.LogSoftmax(dim)
    return nn.Identity() if what == "drop" else nn.Sigmoid()


def _drop(_function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs["input"]


def _bce(_function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    output, target = args[:2]
    return F.binary_cross_entropy(output, target.to(output.dtype), reduction=kwargs.get("reduction", "mean"))


def _as_sigmoid(_function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return torch.sigmoid(args[0])


def _log_of(_function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return F.log_softmax(*args, **kwargs)


def _straight_through(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """X + (f(x) - x).detach()."""
    x = args[0]
    value = function(x.detach().clone() if isinstance(x, Tensor) else x, *args[1:], **kwargs)
    return x + (value - x).detach()


def _as_huber(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """2 sqrt(m x) - m, with m = min(x, c)."""
    x = args[0]
    m = function(x.detach().clone(), *args[1:], **kwargs).detach()
    if bool((m > x).any()):
        raise RefusalError("the clip bounds the error from below, and Huber's loss is bounded from nowhere")
    return 2 * (m * x).clamp_min(torch.finfo(x.dtype).tiny).sqrt() - m


REPLACEMENTS = {"huber": _as_huber, "drop": _drop, "log": _log_of, "bce": _bce, "sigmoid": _as_sigmoid,
                "through": _straight_through}  # fmt: skip

KIND = Kind(propose, apply)
