"""Operands kept away from where an op is singular: inside the op, and in both branches of a where.

A mask behind the op hides the value and not the gradient, 0 * inf = NaN (JAX's FAQ on where; pytorch issue 36923).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradtrace.records.change import Change, Edit, SourceEdit
from gradtrace.records.vocabulary import Cause
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.rewriting import Rule
from gradtrace.repair.twin import RefusalError, Twin

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.repair.situation import Situation

EPS = 1e-6
"""About sqrt(eps) of float32 times the scale of one: a slope of 1e6 is large, and finite."""

_BELOW, _LARGE = f"({{x}}).clamp_min({EPS:g})", 80.0
GUARDS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "log": (_BELOW, lambda x: x.clamp_min(EPS)),
    "log2": (_BELOW, lambda x: x.clamp_min(EPS)),
    "log10": (_BELOW, lambda x: x.clamp_min(EPS)),
    "sqrt": (_BELOW, lambda x: x.clamp_min(EPS)),
    "rsqrt": (_BELOW, lambda x: x.clamp_min(EPS)),
    "acos": (f"({{x}}).clamp(-1 + {EPS:g}, 1 - {EPS:g})", lambda x: x.clamp(-1 + EPS, 1 - EPS)),
    "arccos": (f"({{x}}).clamp(-1 + {EPS:g}, 1 - {EPS:g})", lambda x: x.clamp(-1 + EPS, 1 - EPS)),
    "asin": (f"({{x}}).clamp(-1 + {EPS:g}, 1 - {EPS:g})", lambda x: x.clamp(-1 + EPS, 1 - EPS)),
    "exp": (f"({{x}}).clamp(max={_LARGE:g})", lambda x: x.clamp(max=_LARGE)),
    "softmax": (
        "({x}).masked_fill(({x}).isneginf().all(-1, keepdim=True), 0.0)",
        lambda x: x.masked_fill(x.isneginf().all(-1, keepdim=True), 0.0),
    ),
}
"""Function -> what its argument becomes, as source and as code."""
DIVISIONS = {"div", "divide", "truediv", "true_divide"}
NORMS = {"norm", "vector_norm", "linalg_vector_norm", "linalgvectornorm", "cdist", "std", "normalize"}


def propose(situation: Situation) -> list[Change]:
    """For the op where the first number that is not finite was born."""
    if Cause.UNSAFE_OP not in situation.causes:
        return []
    birth = next((trace.nonfinite for trace in situation.diagnosis.traces if trace.nonfinite is not None), None)
    lines: dict[tuple[str, str], None] = {}
    if birth is not None:
        lines[(birth.op.removesuffix("Backward0").lower().strip("_"), birth.site.source)] = None
        sources = {birth.site.source}
    else:  # late in a training, in the loss's own code: the line is known, and what the first steps did there
        sources = {finding.source for finding in situation.findings if finding.cause is Cause.UNSAFE_OP}
    for op in situation.trace.ops:  # of the same line: exp inside a log, say
        name = op.function.rstrip("_")
        if op.site.source in sources and (name in GUARDS or birth is None):
            lines[(name, op.site.source)] = None
    return [_guard(name, source) for name, source in lines if source and _is_known(name)]


def _is_known(name: str) -> bool:
    return name in GUARDS or name in DIVISIONS or name in NORMS


def _guard(name: str, source: str) -> Change:
    text = GUARDS[name][0] if name in GUARDS else ""
    shown = text.replace("({x})", "x") if text else f"denominator + {EPS:g}" if name in DIVISIONS else "x + eps"
    return Change(
        kind="unsafe",
        title=f"Keep the operand of {name} away from where it is singular: {shown}.",
        where=(source,),
        reason="behind the op it is too late: zero times infinity is NaN on the way back",
        words=(("function", name), ("source", source)),
        edits=(SourceEdit(Edit.ARGUMENT, name, source, text),) if text else (),
        code=f"# {source}: {name}({shown})",
        source="pytorch issues 36923 and 6394",
    )


def apply(change: Change, twin: Twin) -> None:
    """The call with a guarded operand."""
    name = change.word("function")
    if name in GUARDS:
        guard = GUARDS[name][1]
        replacement = lambda f, args, kwargs: f(guard(args[0]), *args[1:], **kwargs)  # noqa: E731
        functions = {name}
    elif name in DIVISIONS:
        replacement, functions = _safe_division, DIVISIONS | {name}
    elif name in NORMS:
        replacement = lambda f, args, kwargs: f(_lifted(args[0]), *args[1:], **kwargs)  # noqa: E731
        functions = NORMS
    else:
        raise RefusalError(f"how to make {name} safe is not known")
    twin.rules.append(Rule(frozenset(functions), change.word("source"), replacement))


def _safe_division(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    top, bottom = args[:2]
    if isinstance(bottom, Tensor):
        bottom = torch.where(bottom == 0, torch.full_like(bottom, 1), bottom)
    return function(top, bottom, *args[2:], **kwargs)


def _lifted(x: Tensor) -> Tensor:
    return x + EPS


KIND = Kind(propose, apply)
