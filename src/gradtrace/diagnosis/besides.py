"""What else does a trace show that may keep a loss at a constant's? Each is seen for sure, and may be meant so.

a mask that drops p of the entries     noise of p / (1 - p) times the signal's power (E[(m / (1 - p) - 1)^2])
a recurrence along the examples        as many steps as the loss has rows, of sequences that it has no rows for
a view that exchanges two sizes        [.., a, b] made into [.., b, a] without the axes: data scrambled
"""

from __future__ import annotations

import itertools
import math
import operator
from dataclasses import replace
from typing import TYPE_CHECKING

from gradtrace.diagnosis.naming import told_op
from gradtrace.diagnosis.thresholds import MOST_NOISE
from gradtrace.measure.names import Names
from gradtrace.measure.path import Paths
from gradtrace.records.vocabulary import Symptom
from gradtrace.remedies.catalogue import LESS_DROPOUT
from gradtrace.tape.factors import DROPOUTS
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gradtrace.records.finding import Finding
    from gradtrace.records.trace import Op, Trace


def besides(trace: Trace, paths: Paths) -> list[str]:
    """One clause for each."""
    return [*_masks(trace, paths), *_along_examples(trace), *_exchanged(trace, paths), *_fed_zeros(trace)]


def dropped_frac(op: Op) -> float:
    """Of the entries that a dropout lets a gradient come to, the fraction that it drops; 0 of other ops."""
    passed = next((stats for stats in op.passed if stats is not None), None)
    if not is_dropout(op) or op.received is None or passed is None or not op.received.zero_frac < 1.0:
        return 0.0
    return max(0.0, 1.0 - (1.0 - passed.zero_frac) / (1.0 - op.received.zero_frac))


def is_dropout(op: Op) -> bool:
    """Whether it multiplies by a random mask."""
    return op.function.rstrip("_") in DROPOUTS or "Dropout" in op.name


def noise_of(op: Op) -> float:
    """[of the signal's power] What a dropout adds; 0 of other ops.

    >>> from gradtrace import trace
    >>> from torch import manual_seed, nn, ones
    >>> _ = manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(4, 512), nn.Dropout(0.5), nn.Linear(512, 1))
    >>> ops = trace(model, lambda model, x: model(x).square().mean(), ones(64, 4)).ops
    >>> round(max(map(noise_of, ops)))
    1
    """
    dropped = dropped_frac(op)
    return dropped / (1.0 - dropped) if dropped < 1.0 else math.inf


def masks(trace: Trace) -> list[Op]:
    """Dropouts whose noise is a decade above the signal, or more."""
    return [op for op in trace.ops if noise_of(op) >= MOST_NOISE]


def told_mask(op: Op, trace: Trace, paths: Paths) -> str:
    """What it does, in words."""
    return (
        f"{told_op(op, trace, paths)} drops {100 * dropped_frac(op):.2g} % of the entries, which adds noise of "
        f"{noise_of(op):.2g} times the signal's power"
    )


def with_masks(finding: Finding, trace: Trace) -> Finding:
    """What units died of, where the latest `trace` has a mask that leaves next to nothing but noise."""
    worst = max(masks(trace), key=noise_of, default=None) if finding.symptom is Symptom.DEAD_UNITS else None
    if worst is None:
        return finding
    told = f"{told_mask(worst, trace, Paths(trace))}, and the steps follow it."
    return replace(finding, message=f"{finding.message} {told}", remedies=(LESS_DROPOUT, *finding.remedies))


def _masks(trace: Trace, paths: Paths) -> Iterator[str]:
    worst = max(masks(trace), key=noise_of, default=None)
    if worst is not None:
        yield told_mask(worst, trace, paths)


def _along_examples(trace: Trace) -> Iterator[str]:
    known = [op for op in trace.ops if op.objective is not None]
    if len(known) != 1 or trace.through_time is None:
        return
    rows = next((stats.shape for stats in known[0].passed if stats is not None), ())
    for chain in trace.through_time.chains:
        shapes = {op.received.shape for op in trace.ops if op.site.module == chain.module and op.received is not None}
        others = {shape[1] for shape in shapes if len(shape) == 3 and shape[0] == chain.num_steps}
        if rows and rows[0] == chain.num_steps and others and not others & {1, chain.num_steps, *rows[1:]}:
            yield (
                f"{chain.name} goes through {chain.num_steps} steps along the first axis of its input, which is the "
                f"axis of the {rows[0]} examples of the loss (batch_first=True makes it the second)"
            )


def _exchanged(trace: Trace, paths: Paths) -> Iterator[str]:
    for op in trace.ops:
        passed = next((stats.shape for stats in op.passed if stats is not None), ())
        made = op.received.shape if op.received is not None else ()
        if base_name(op.name) in _VIEWS and _is_exchange(passed, made):
            yield (
                f"{told_op(op, trace, paths)} makes {list(passed)} into {list(made)}: that exchanges the sizes, and "
                "not the axes, as permute would"
            )
            return


_VIEWS = ("View", "UnsafeView", "ReshapeAlias")


def _is_exchange(given: tuple[int, ...], made: tuple[int, ...]) -> bool:
    """Whether the sizes of two groups of axes are exchanged, behind those that both have in front.

    Where both have a border between axes at the same place, each side of it is merged or split, as [32, 12], [32] is
    into [384], [32].

    >>> _is_exchange((64, 16, 7, 7), (64, 49, 16)), _is_exchange((64, 16, 7, 7), (64, 16, 49))
    (True, False)
    >>> _is_exchange((32, 12, 32), (384, 32))
    False
    """
    front = next((i for i, pair in enumerate(zip(given, made, strict=False)) if pair[0] != pair[1]), len(made))
    before, after = given[front:], made[front:]
    if len(before) < 2 or len(after) < 2 or min(*before, *after) < 2:
        return False
    borders = [{*itertools.accumulate(sizes[:-1], operator.mul)} for sizes in (before, after)]
    if borders[0] & borders[1]:
        return False
    first, rest = before[0], math.prod(before[1:])
    return (
        after[-1] == first != rest and math.prod(after[:-1]) == rest and (len(after) == 2 or after[:-1] == before[1:])
    )


def _fed_zeros(trace: Trace) -> Iterator[str]:
    """Where zeros are given, and not made: what a ReLU or a factor has silenced is told elsewhere."""
    for op in trace.ops:
        is_silent = op.function in _LAYERS and op.forward is not None and op.forward.input_rms == 0.0
        if is_silent and not _is_computed(op, trace):
            again = f" (call {op.site.call + 1})" if op.site.call else ""
            yield f"{Names(trace).told(op.site.module or '', op.site.source)}{again} is fed with zeros alone"
            return


_LAYERS = {"linear", "conv1d", "conv2d", "conv3d"}


def _is_computed(op: Op, trace: Trace) -> bool:
    """Whether an operand of the call that `op` is the last op of is made of something else than the layer's weights."""
    stack = [op]
    while stack:
        here = stack.pop()
        targets = [trace.ops[target[0]] for target in here.targets if target is not None]
        for other in targets:
            if other.parameter is not None:
                continue
            if (other.site, other.function) != (op.site, op.function):
                return True
            stack.append(other)
    return False
