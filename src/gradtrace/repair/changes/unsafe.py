"""Operands kept away from where an op is singular: inside the op, and in both branches of a where.

A mask behind the op hides the value and not the gradient, 0 * inf = NaN (JAX's FAQ on where; pytorch issue 36923).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gradtrace.records.change import Change, Edit, SourceEdit
from gradtrace.records.vocabulary import Cause
from gradtrace.repair.changes import stable
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.rewriting import Rule, name_of
from gradtrace.repair.twin import RefusalError, Twin
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.repair.situation import Situation

EPS = 1e-6
"""About sqrt(eps) of float32 times the scale of one: a slope of 1e6 is large, and finite."""

LARGEST_EXPONENT = 80.0
"""exp overflows at 88.7 in float32."""


@dataclass(frozen=True, slots=True)
class Guard:
    """What becomes of one operand: as source, and as code."""

    text: str
    safe: Callable[[Tensor], Tensor]
    divisor: bool = False
    """The last operand, as it is written; else the first."""

    @property
    def edit(self) -> Edit:
        """As source."""
        return Edit.LAST if self.divisor else Edit.ARGUMENT

    @property
    def shown(self) -> str:
        """In a title."""
        return self.text.replace("({1})", "divisor").replace("({x})", "x")


def _above(least: float) -> Guard:
    return Guard(f"({{x}}).clamp_min({least:g})", lambda x: x.clamp_min(least))


def _within(low: str, least: float, high: str, most: float) -> Guard:
    return Guard(f"({{x}}).clamp({low}, {high})", lambda x: x.clamp(least, most))


_WITHIN_ONE = _within(f"-1 + {EPS:g}", EPS - 1, f"1 - {EPS:g}", 1 - EPS)
_OPEN_ROW = Guard(
    "({x}).masked_fill(({x}).isneginf().all(-1, keepdim=True), 0.0)",
    lambda x: x.masked_fill(x.isneginf().all(-1, keepdim=True), 0.0),
)
_BELOW_OVERFLOW = Guard(f"({{x}}).clamp(max={LARGEST_EXPONENT:g})", lambda x: x.clamp(max=LARGEST_EXPONENT))
_IN_RANGE = _within(f"-{LARGEST_EXPONENT:g}", -LARGEST_EXPONENT, f"{LARGEST_EXPONENT:g}", LARGEST_EXPONENT)
_LIFTED = Guard(f"({{x}}) + {EPS:g}", lambda x: x + EPS)
_BY_NAMES = {
    "log log2 log10 sqrt rsqrt pow reciprocal": _above(EPS),
    "log1p": Guard(f"({{x}}).clamp_min(-1 + {EPS:g})", lambda x: x.clamp_min(EPS - 1)),
    "acosh arccosh": Guard(f"({{x}}).clamp_min(1 + {EPS:g})", lambda x: x.clamp_min(1 + EPS)),
    "acos arccos asin arcsin atanh arctanh erfinv": _WITHIN_ONE,
    "logit": _within(f"{EPS:g}", EPS, f"1 - {EPS:g}", 1 - EPS),
    "exp expm1": _BELOW_OVERFLOW,
    "cosh sinh": _IN_RANGE,
    "softmax log_softmax": _OPEN_ROW,
    "norm vector_norm linalg_vector_norm cdist std normalize": _LIFTED,
    "div divide truediv true_divide": Guard(
        f"({{1}}).where(({{1}}).abs() > {EPS:g}, {EPS:g})", lambda x: x.where(x.abs() > EPS, EPS), divisor=True
    ),
}
GUARDS = {name: guard for names, guard in _BY_NAMES.items() for name in names.split()}
"""Torch function -> the guard of its operand."""


def propose(situation: Situation) -> list[Change]:
    """For the op where the first number that is not finite was born."""
    if Cause.UNSAFE_OP not in situation.causes:
        return []
    birth = next((trace.nonfinite for trace in situation.diagnosis.traces if trace.nonfinite is not None), None)
    if birth is not None:
        sources, born = {birth.site.source}, base_name(birth.op).lower()
    else:  # late in a training, in the loss's own code: the line is known, and what the first steps did there
        sources, born = {finding.source for finding in situation.findings if finding.cause is Cause.UNSAFE_OP}, ""
    exact = {line for change in stable.propose(situation) for line in change.word("lines").splitlines()}
    lines: dict[tuple[str, str], None] = {}
    for op in situation.trace.ops:  # of the same line: exp inside a log, say
        name = base_name(op.function).rstrip("_")
        if f"{name} {op.site.source}" in exact:
            continue  # what is the same everywhere is better than what bends at the edge
        if op.site.source in sources and name in GUARDS and (name != "pow" or born == "pow"):  # most are squares
            lines[(name, op.site.source)] = None
    ordered = [line for line in sorted(lines, key=lambda line: line[0] != born) if line[1]]
    together = [ordered] if len(ordered) > 1 else []  # log(v) and x / v: of one v, perhaps
    return [_guard(each) for each in ([line] for line in ordered)] + [_guard(each) for each in together]


def _guard(lines: list[tuple[str, str]]) -> Change:
    guards = [(name, source, GUARDS[name]) for name, source in lines]
    operands = [f"the {'divisor' if guard.divisor else 'operand'} of {name}" for name, _, guard in guards]
    many = len(guards) > 1
    return Change(
        kind="unsafe",
        title=f"Keep {' and '.join(operands)} away from where {'they are' if many else 'it is'} singular: "
        f"{', '.join(guard.shown for _, _, guard in guards)}.",
        where=tuple(dict.fromkeys(source for _, source in lines)),
        reason="behind the op it is too late: zero times infinity is NaN on the way back",
        words=(("lines", "\n".join(f"{name} {source}" for name, source in lines)),),
        edits=tuple(SourceEdit(guard.edit, name, source, guard.text) for name, source, guard in guards),
        code="\n".join(f"# {source}: {name}({guard.shown})" for name, source, guard in guards),
        source="pytorch issues 36923 and 6394",
    )


def apply(change: Change, twin: Twin) -> None:
    """The calls with guarded operands."""
    for line in change.word("lines").splitlines():
        name, source = line.split(" ", 1)
        if name not in GUARDS:
            raise RefusalError(f"how to make {name} safe is not known")
        names = {name, "rdiv"} if GUARDS[name].divisor else {name}
        twin.rules.append(Rule(frozenset(names), source, _guarded(name, GUARDS[name])))


def _guarded(name: str, guard: Guard) -> Callable[..., Any]:
    def call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name == "pow" and _is_no_root(args[1] if len(args) > 1 else kwargs.get("exponent")):
            return function(*args, **kwargs)
        place = 1 if guard.divisor and name_of(function) != "rdiv" else 0  # 1 / x is x.__rdiv__(1)
        if place < len(args) and isinstance(args[place], Tensor):
            args = (*args[:place], guard.safe(args[place]), *args[place + 1 :])
        return function(*args, **kwargs)

    return call


def _is_no_root(exponent: Any) -> bool:
    """Whole powers, as x ** 2, are safe at zero and below it."""
    return isinstance(exponent, int | float) and exponent >= 1 and exponent == int(exponent)


KIND = Kind(propose, apply)
