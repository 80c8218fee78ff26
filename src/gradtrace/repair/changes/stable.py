"""A function of which a part overflows where the whole does not, taken in one.

    log sum exp x = max x + log sum exp(x - max x),    log(1 + exp x) = softplus x,
    log cosh x = |x| + softplus(-2 |x|) - log 2

Blanchard, Higham & Higham, Accurately computing the log-sum-exp and softmax functions (2021), equation 1.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gradtrace.records.change import Change, Edit, SourceEdit
from gradtrace.records.vocabulary import Cause
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.rewriting import Rule
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.records.trace import Op
    from gradtrace.repair.situation import Situation
    from gradtrace.repair.twin import Twin


@dataclass(frozen=True, slots=True)
class Stable:
    """The calls from the outermost to the innermost; `at` is the one that becomes the whole, the others do nothing."""

    calls: tuple[str, ...]
    at: str
    text: str
    whole: Callable[..., Any]
    written: str
    shown: str


def log_cosh(x: Tensor) -> Tensor:
    """Where cosh overflows, too.

    >>> [round(x, 4) for x in log_cosh(torch.tensor([1.0, -1000.0], dtype=torch.float64)).tolist()]
    [0.4338, 999.3069]
    """
    return x.abs() + F.softplus(-2 * x.abs()) - math.log(2)


_SOFTPLUS = "torch.nn.functional.softplus({x})"
_LOG_COSH = f"(({{x}}).abs() + torch.nn.functional.softplus(-2 * ({{x}}).abs()) - {math.log(2)})"
FORMS = (
    Stable(
        ("log", "sum", "exp"), "sum", "torch.logsumexp({x}{rest})", torch.logsumexp, "log(sum(exp(x)))", "logsumexp"
    ),
    Stable(("log", "add", "exp"), "exp", _SOFTPLUS, F.softplus, "log(1 + exp(x))", "softplus"),
    Stable(("log1p", "exp"), "exp", _SOFTPLUS, F.softplus, "log1p(exp(x))", "softplus"),
    Stable(("log", "cosh"), "cosh", _LOG_COSH, log_cosh, "log(cosh(x))", "|x| + softplus(-2 |x|) - log 2"),
)


def propose(situation: Situation) -> list[Change]:
    """Wherever the calls follow each other, and nothing else reads what is between them."""
    if not {Cause.UNSAFE_OP, Cause.NUMERIC_FORMAT} & set(situation.causes):
        return []
    found = []
    for form in FORMS:
        chains = [chain for op in situation.trace.ops if (chain := _chain(op, form, situation))]
        lines = {(_name(op), op.site.source) for chain in chains for op in chain}
        known = {op.index for chain in chains for op in chain}
        is_alone = all(op.index in known for op in situation.trace.ops if (_name(op), op.site.source) in lines)
        if chains and is_alone and all(source for _, source in lines):
            found.append(_change(form, sorted(lines)))
    return found


def _chain(outermost: Op, form: Stable, situation: Situation) -> list[Op]:
    chain, op = [], outermost
    for place, name in enumerate(form.calls):
        if _name(op) != name or (place and len(situation.paths.arrivals[op.index]) != 1):
            return []
        chain.append(op)
        below = [situation.trace.ops[target[0]] for target in op.targets if target is not None]
        if len(below) != 1:
            return []
        op = below[0]
    return chain


def _name(op: Op) -> str:
    return base_name(op.function).rstrip("_")


def _change(form: Stable, lines: list[tuple[str, str]]) -> Change:
    return Change(
        kind="stable",
        title=f"Take {form.written} in one: {form.shown}.",
        where=tuple(dict.fromkeys(source for _, source in lines)),
        reason=f"{form.calls[-1]} overflows where the whole is a number like any other",
        words=(("form", " ".join(form.calls)), ("lines", "\n".join(f"{name} {source}" for name, source in lines))),
        edits=tuple(
            SourceEdit(Edit.CALL, name, source, form.text if name == form.at else "{x}") for name, source in lines
        ),
        code=f"# {lines[0][1]}: {form.shown}",
        source="Blanchard et al. 2021",
    )


def apply(change: Change, twin: Twin) -> None:
    """One call is the whole, the others hand on what they are given."""
    form = next(form for form in FORMS if " ".join(form.calls) == change.word("form"))
    for line in change.word("lines").splitlines():
        name, source = line.split(" ", 1)
        twin.rules.append(Rule(frozenset({name, f"r{name}"}), source, _whole(form) if name == form.at else _handed_on))


def _whole(form: Stable) -> Callable[..., Any]:
    return lambda _function, args, kwargs: form.whole(*args, **kwargs)


def _handed_on(_function: Callable[..., Any], args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Any:
    return next(arg for arg in args if isinstance(arg, Tensor))


KIND = Kind(propose, apply)
