"""The output of a regression without a bound: what ends at 1, or at 0, never reaches a target beyond.

Of another loss, which may ask for what is positive, ReLU becomes softplus (Dugas et al. 2001): nothing is off for good.

    min over y in [a, b] of |t - y|^p  =  |t - clip(t, a, b)|^p:  a floor under the loss that no weights lower

And where the output lies on the flat part of its bound, nothing pulls it off. Bishop, Pattern Recognition and Machine
Learning (2006), section 5.2: the output unit of a squared error is the identity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional as F

from gradtrace.diagnosis.rules.pairing import out_of_reach
from gradtrace.records.change import Change, Edit, SourceEdit
from gradtrace.records.vocabulary import Cause, Factor
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.rewriting import Rule
from gradtrace.repair.twin import RefusalError, Twin, replace_module, take_over

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from gradtrace.records.trace import ObjectiveStats, Op
    from gradtrace.repair.situation import Situation

TEXTS = {"Identity": "{x}", "Softplus": "torch.nn.functional.softplus({x})"}
"""What a call becomes."""
SQUARES = {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"}


def propose(situation: Situation) -> list[Change]:
    """The non-linearity behind the last layer, where the loss function is to blame."""
    if Cause.LOSS_FUNCTION not in situation.causes:
        return []
    behind = [op for op in situation.trace.ops if situation.paths.depths[op.index] == 0 and not op.weights]
    bounds = [op for op in behind if op.factor is Factor.ACTIVATION and op.activation is not None]
    floor = unreachable(situation)
    if floor is None and not any(op.function in SQUARES for op in behind):
        return [_positive(op, situation) for op in bounds if op.function.rstrip("_") == "relu"][-1:]
    return [_unbounded(op, situation, floor) for op in bounds[-1:]]


def unreachable(situation: Situation) -> ObjectiveStats | None:
    """What is known of an error whose targets lie outside of the output's range."""
    known = [op.objective for op in situation.trace.ops if op.objective is not None]
    return next((one for one in known if one.held_against <= 1.0 and out_of_reach(one)), None)


def _unbounded(op: Op, situation: Situation, floor: ObjectiveStats | None) -> Change:
    flat = "on its flat part it passes no gradient, and an error needs no bound"
    reason = flat if floor is None else f"with it the loss stays above {floor.floor:.4g} whatever the weights are"
    return _change(op, situation, f"Take {op.function} away from the output.", reason, "Identity", "Bishop 2006")


def _positive(op: Op, situation: Situation) -> Change:
    reason = "an output that is off gets no gradient, and nothing turns it on again"
    title = f"Use softplus in place of {op.function} at the output."
    return _change(op, situation, title, reason, "Softplus", "Dugas et al. 2001")


def _change(op: Op, situation: Situation, title: str, reason: str, becomes: str, author: str) -> Change:
    path, source = op.site.module or "", op.site.source
    own = path and is_of_torch(situation.model, path)
    text = TEXTS[becomes]
    return Change(
        kind="output",
        title=title,
        where=(path if own else source,),
        reason=reason,
        words=(("function", op.function), ("becomes", becomes), ("module", path if own else ""), ("source", source)),
        edits=(SourceEdit(Edit.CALL, op.function, source, text),) if not own else (),
        code=f"model.set_submodule({path!r}, torch.nn.{becomes}())"
        if own
        else f"# {source}: {text.replace('{x}', 'x')} in place of {op.function}(x)",
        source=author,
    )


def is_of_torch(model: nn.Module, path: str) -> bool:
    """Whether a module of torch stands there that holds no others: one that can be replaced."""
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return False
    return not list(module.children()) and type(module).__module__.startswith("torch.nn")


def apply(change: Change, twin: Twin) -> None:
    """The module made the identity, or the call rewritten; the unchanged loss measures what comes out."""
    path, source = change.word("module"), change.word("source")
    if path:
        old = twin.model.get_submodule(path)
        new = nn.Identity() if change.word("becomes") == "Identity" else nn.Softplus()
        replace_module(twin.model, old, take_over(new, old))
        return
    if not source:
        raise RefusalError("the line of the call is not known")
    twin.rules.append(
        Rule(frozenset({change.word("function").rstrip("_")}), source, _REPLACEMENTS[change.word("becomes")])
    )


def _argument(_function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs["input"]


def _softplus(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return F.softplus(_argument(function, args, kwargs))


_REPLACEMENTS = {"Identity": _argument, "Softplus": _softplus}


KIND = Kind(propose, apply)
