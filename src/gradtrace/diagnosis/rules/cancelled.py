"""Do the gradients that come to an output by several ways cancel, so that nothing is left for what lies below?

g(o) - g(o) is zero whatever o is, and so is the derivative of g(o) / g(o): two ways bring the same gradient, and with
opposite signs in each entry. So it is where one of the two was to be held fixed, as a policy's old log probabilities in
the ratio exp(new - old), and comes of the same pass. By chance a sum is never zero in all of its entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import owner
from gradtrace.diagnosis.naming import function_of, told_op
from gradtrace.diagnosis.thresholds import EPSILON, MIN_SAMPLES, ROUNDING
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.shown import counted
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.of_losses import HOLD_FIXED
from gradtrace.tape.kinds import LEAF

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gradtrace.diagnosis.scene import View
    from gradtrace.records.trace import Op


def cancelled(view: View) -> Finding | None:
    """The first op of the tape at which it is so, with all weights that get their gradient from such ops alone."""
    ops = [op for op in view.trace.ops if _cancels(op, view)]
    starved = _fed_by(ops, view) if ops else []
    if not starved:
        return None
    op = ops[0]
    sources = [source for source, _ in view.paths.arrivals[op.index]]
    parted = _parts_at(sources, view)
    line = f" ({parted.site.source})" if parted.site.source else ""
    arrived = max(_arriving(op, view))
    return Finding(
        symptom=Symptom.LOSS_SATURATED,
        cause=Cause.LOSS_FUNCTION,
        where=tuple(dict.fromkeys(owner(name) for name in starved)),
        severity=Severity.CRITICAL,
        message=f"The gradients that come to {told_op(op, view.trace, view.paths)} by {counted(len(sources), 'way')} "
        f"cancel: each is up to {arrived:.3g} and their sum is zero, so that {counted(len(starved), 'parameter')} "
        f"({starved[0]}, ...) can learn nothing. They part at {function_of(parted)}{line}: what is held against each "
        "other there depends on the same weights in the same way. Detach what is to be held fixed.",
        evidence=(
            Evidence("gradient that arrives by one way", arrived),
            Evidence("parameters without gradient", float(len(starved)), "parameters"),
        ),
        remedies=(HOLD_FIXED,),
        source=parted.site.source or op.site.source,
    )


def _arriving(op: Op, view: View) -> list[float]:
    passed = [view.trace.ops[source].passed[slot] for source, slot in view.paths.arrivals[op.index]]
    return [stats.norm for stats in passed if stats is not None]


def _cancels(op: Op, view: View) -> bool:
    """Whether all that arrives is more than rounding, and its sum is not; of a weight it may be, over the samples."""
    stats = op.received
    if stats is None or stats.numel < MIN_SAMPLES or op.name == LEAF:
        return False
    arriving = _arriving(op, view)
    if len(arriving) < 2 or not min(arriving) > 0.0:
        return False
    return stats.norm <= ROUNDING * EPSILON.get(stats.dtype, 0.0) * max(arriving)


def _fed_by(ops: list[Op], view: View) -> list[str]:
    """Parameters to which gradient comes through one of `ops` and no other way."""
    through = [op.index for op in ops]
    otherwise = _leaves([0], view, without=through)
    return [name for name in _leaves(through, view) if name not in otherwise]


def _leaves(starts: list[int], view: View, without: Iterable[int] = ()) -> list[str]:
    found: list[str] = []
    stack, seen = [*starts], {*without}
    while stack:
        index = stack.pop()
        if index in seen:
            continue
        seen.add(index)
        op = view.trace.ops[index]
        if op.parameter is not None:
            found.append(op.parameter)
        stack.extend(target[0] for target in op.targets if target is not None)
    return sorted(found)


def _parts_at(sources: list[int], view: View) -> Op:
    """The last op before the ways part: what they are all made of comes through it."""
    above = [{source, *_ancestors(source, view)} for source in sources]
    return view.trace.ops[max(set.intersection(*above), default=0)]


def _ancestors(index: int, view: View) -> set[int]:
    found: set[int] = set()
    stack = [index]
    while stack:
        for source, _ in view.paths.arrivals[stack.pop()]:
            if source not in found:
                found.add(source)
                stack.append(source)
    return found
