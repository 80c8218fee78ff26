"""Which first layers tell how deep a gradient reaches? Not those that others feed better, or that carry no signal."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import is_layer, owner
from gradtrace.diagnosis.thresholds import RECURRENCE_CALLS
from gradtrace.records.vocabulary import Factor
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from gradtrace.measure.path import Paths
    from gradtrace.records.time import ThroughTime
    from gradtrace.records.trace import Op, Trace

_SCORES = (0, 1)
"""Inputs of a fused attention that make its scores: queries and keys."""


def that_count(firsts: list[Op], trace: Trace, paths: Paths, loops: ThroughTime | None) -> list[Op]:
    """Those of `firsts`; `loops` as they are known."""
    firsts = [op for op in firsts if not _idle_use(op, trace)]
    firsts = _without_turns(firsts, trace, loops)
    carrying = [op for op in firsts if not _only_steers(op, paths)]
    return carrying or firsts


def _only_steers(first: Op, paths: Paths) -> bool:
    """Whether a layer makes nothing but the scores of one attention (of positions, as a rule), and is no tower.

    The gradient of scores is that of differences of values, a_i (g v_i - sum_j a_j g v_j): next to nothing as long as
    the values are alike, as at the start, and past them the signal and its gradient go on.
    """
    for step in reversed(paths.path(first.index)):
        op = paths.ops[step.op]
        if is_layer(op):
            return False
        if op.factor is Factor.ATTENTION and (
            base_name(op.name) == "Softmax" or (_is_fused(op) and step.slot in _SCORES)
        ):
            return True
    return False


def _is_fused(op: Op) -> bool:
    """Whether an op is a whole attention."""
    return base_name(op.name).endswith(("Attention", "AttentionForCpu", "AttentionOverrideable"))


def _idle_use(op: Op, trace: Trace) -> bool:
    """Whether a use of weights gets no gradient at all while another use of all of them does (a gradient penalty)."""
    if _received(op) != 0.0:
        return False
    gradients = [p.gradient for p in trace.parameters if p.name in op.weights]
    return all(gradient is not None and gradient.norm > 0.0 for gradient in gradients)


def _without_turns(firsts: list[Op], trace: Trace, loops: ThroughTime | None) -> list[Op]:
    """First layers, without the early turns of a loop through time.

    A weight learns from all of its applications together, and those of later steps feed it better: what reaches the
    first step is the horizon's matter (`rules.time`). Where nothing new comes in (shared depth) the first turn counts.
    """
    times = Counter(op.weights for op in trace.ops if is_layer(op))
    best: dict[tuple[str, ...], float] = {}
    for op in trace.ops:
        if is_layer(op):
            best[op.weights] = max(best.get(op.weights, 0.0), _received(op))
    return [
        op
        for op in firsts
        if times[op.weights] < RECURRENCE_CALLS
        or _received(op) >= best[op.weights]
        or _is_depth(op, loops or trace.through_time)
    ]


def _is_depth(op: Op, record: ThroughTime | None) -> bool:
    """Whether an op belongs to a loop that takes nothing new in, or is not known to belong to a recurrence at all."""
    chains = record.chains if record is not None else ()
    if not any(chain.inputs == "varying" for chain in chains):
        return True
    return any(related(chain.module, owner(op.weights[-1])) for chain in chains if chain.inputs != "varying")


def related(a: str, b: str) -> bool:
    """Whether one module is the other, or inside it."""
    return a == b or a.startswith(f"{b}.") or b.startswith(f"{a}.")


def _received(op: Op) -> float:
    return op.received.norm if op.received is not None else math.nan
