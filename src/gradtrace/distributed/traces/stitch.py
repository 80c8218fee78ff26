"""The traces of a pipeline's stages, each of its own ops, joined into one: from the loss through all stages.

What a stage gives back for its input is what the stage before it begins with: a leaf without a name there and the first
op here, of the same shape, format and norm. Joined there, gains of ops and merges telescope through all of them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from gradtrace.records.trace import Coverage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.trace import Op, Trace

NOTE = "joined from the stages of a pipeline, each traced on a rank of its own, of the first microbatch alone"

SAME = 1e-6
"""[relative] Norms of one gradient, measured on two ranks."""


def stitched(traces: Sequence[Trace]) -> Trace | None:
    """One trace; None where they are no stages in a row, or something is missing between them."""
    begun = [trace for trace in traces if _begins_at_a_loss(trace)]
    has_all = all(p.gradient is not None or not p.requires_grad for trace in traces for p in trace.parameters)
    if len(begun) != 1 or not has_all:
        return None
    left = [trace for trace in traces if trace is not begun[0]]
    chain, joints = [begun[0]], list[int]()
    while left:
        found = [(leaf, trace) for trace in left for leaf in _leaves(chain[-1]) if _is_one(leaf, trace.ops[0])]
        if len(found) != 1:
            return None
        leaf, trace = found[0]
        joints.append(leaf.index)
        chain.append(trace)
        left = [one for one in left if one is not trace]
    return _joined(chain, joints)


def _begins_at_a_loss(trace: Trace) -> bool:
    received = trace.ops[0].received if trace.ops else None
    return received is not None and received.numel == 1


def _leaves(trace: Trace) -> list[Op]:
    """Inputs that a gradient was asked for."""
    return [op for op in trace.ops if not op.targets and op.parameter is None and op.received is not None]


def _is_one(leaf: Op, first: Op) -> bool:
    given, begun = leaf.received, first.received
    if given is None or begun is None or (given.shape, given.dtype) != (begun.shape, begun.dtype):
        return False
    return given.norm == begun.norm or math.isclose(given.norm, begun.norm, rel_tol=SAME)


def _joined(chain: Sequence[Trace], joints: Sequence[int]) -> Trace:
    """`chain` from the loss on; `joints`: the leaf of each where the next one goes on."""
    ops: list[Op] = []
    inner = [max((op.sequence for op in trace.ops if op.targets), default=0) + 1 for trace in chain]
    for place, trace in enumerate(chain):
        leaf = joints[place] if place < len(joints) else len(trace.ops)
        start, before = len(ops), sum(inner[place + 1 :])  # later in this chain is earlier in the forward pass
        behind = start + len(trace.ops) - (leaf < len(trace.ops))
        places = [behind if i == leaf else start + i - (i > leaf) for i in range(len(trace.ops))]
        ops += [
            replace(
                op,
                index=places[op.index],
                targets=tuple(None if to is None else (places[to[0]], to[1]) for to in op.targets),
                sequence=op.sequence + before if op.targets else op.sequence,
            )
            for op in trace.ops
            if op.index != leaf
        ]
    stages = chain[::-1]
    return replace(
        chain[0],
        ops=tuple(ops),
        parameters=tuple(parameter for trace in stages for parameter in trace.parameters),
        coverage=_coverage(chain),
        nonfinite=next((trace.nonfinite for trace in stages if trace.nonfinite is not None), None),
        severed=tuple(dict.fromkeys(place for trace in stages for place in trace.severed)),
    )


def _coverage(chain: Sequence[Trace]) -> Coverage:
    """Of all stages; what is said of the beginning of a stage is true no longer."""
    every = [trace.coverage for trace in chain]
    return Coverage(
        opaque=tuple(dict.fromkeys(one for coverage in every for one in coverage.opaque)),
        unknown=tuple(dict.fromkeys(one for coverage in every for one in coverage.unknown)),
        unreadable=tuple(dict.fromkeys(one for coverage in every for one in coverage.unreadable)),
        notes=(*chain[0].coverage.notes, NOTE),
    )
