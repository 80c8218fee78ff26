"""What is a layer, where is it, and what did its weights get?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.measure.path import Paths
from gradtrace.records.parameter_name import module_in
from gradtrace.records.vocabulary import Factor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.diagnosis.scene import View
    from gradtrace.records.trace import Op, ParameterStats, Trace


def num_units(op: Op) -> int:
    """Features of what an op made: channels of a convolution, else the last axis."""
    assert op.received is not None
    shape = op.received.shape
    axis = 1 if "Conv" in op.name and len(shape) > 2 else -1
    return max(1, shape[axis]) if shape else 1


def is_layer(op: Op) -> bool:
    """Whether an op has weights, was applied to anything and got a gradient, and is no part of the loss."""
    return bool(op.weights) and op.received is not None and op.received.numel > 0 and op.factor is not Factor.LOSS


def place(op: Op, paths: Paths) -> str:
    """Where to look for an op: the owner of its weights, its own module, or the layer that feeds it.

    Its own module counts if it is more than a container of layers: an ``nn.Sigmoid``, but not the model whose forward
    calls ``torch.sigmoid``.
    """
    if op.weights:
        return owner(op.weights[-1])
    below = layer_below(op, paths)
    module = op.site.module or ""
    if below is None or (module and not place(below, paths).startswith(module)):
        return module
    return place(below, paths)


def layer_below(op: Op, paths: Paths | Trace) -> Op | None:
    """The layer whose output an op is applied to, through norms, views and sums."""
    index: int | None = op.index
    for _ in range(16):
        if index is None:
            return None
        here = paths.ops[index]
        if here.weights:
            return here
        ways = [t[0] for t in here.targets if t is not None and paths.ops[t[0]].parameter is None]
        index = ways[0] if ways else None
    return None


def gain_of(op: Op, trace: Trace) -> float:
    """The largest of its gains to an operand that was computed from data; 0 where it passes nothing on."""
    if op.received is None or op.received.norm == 0.0:
        return 0.0
    ways = [
        stats.norm
        for stats, target in zip(op.passed, op.targets, strict=True)
        if stats is not None and target is not None and not _is_parameter(trace.ops[target[0]], trace)
    ]
    return max(ways, default=0.0) / op.received.norm


def _is_parameter(op: Op, trace: Trace) -> bool:
    """Whether an op is a parameter, or a view of one."""
    return leaf_of(op, trace.ops) is not None


def is_shared_out(layers: Sequence[Op], paths: Paths) -> bool:
    """Whether the layers may each have a part of their parameter: together they use no more entries than it has."""
    used, whole = 0, 0
    for op in layers:
        for stats, target in zip(op.passed, op.targets, strict=True):
            leaf = leaf_of(paths.ops[target[0]], paths.ops) if target is not None else None
            if leaf is not None and leaf.parameter in op.weights and stats is not None and leaf.received is not None:
                used, whole = used + stats.numel, max(whole, leaf.received.numel)
    return 0 < used <= whole


def leaf_of(op: Op, ops: Sequence[Op]) -> Op | None:
    """The parameter that an op is, or is a view of."""
    while op.parameter is None and op.factor is Factor.RESHAPE and len(op.targets) == 1 and op.targets[0] is not None:
        op = ops[op.targets[0][0]]
    return op if op.parameter is not None else None


def parameters_behind(op: Op, ops: Sequence[Op]) -> tuple[str, ...]:
    """The parameters that a value is computed from, if it is from these alone and by a few ops; () if not."""
    below = [op]
    for one in below:
        targets = [ops[target[0]] for target in one.targets if target is not None]
        if len(below) > LONGEST_RECIPE or (not targets and one.parameter is None):
            return ()
        below += [target for target in targets if target not in below]
    return tuple(dict.fromkeys(one.parameter for one in below if one.parameter is not None))


LONGEST_RECIPE = 16
"""Ops that a weight may be computed from its parameters by."""


def gradient_parts(parameter: ParameterStats, view: View) -> tuple[float, float]:
    """|gradient| that came to a parameter through layers of the network, and past all of them (a penalty in the loss).

    The loss is a sum of terms, and so is each gradient; a term that takes the weight itself reaches it by no layer.
    """
    leaf = next((op for op in view.trace.ops if op.parameter == parameter.name), None)
    if leaf is None:
        return (parameter.gradient.norm if parameter.gradient is not None else 0.0), 0.0
    data: list[float] = []
    penalty: list[float] = []
    for source, slot in view.paths.arrivals[leaf.index]:
        op = view.trace.ops[source]
        stats = op.passed[slot]
        through = bool(op.weights) or view.paths.depths[source] > 0 or op.factor is not Factor.LOSS
        (data if through else penalty).append(stats.norm if stats is not None else 0.0)
    return math.hypot(*data), math.hypot(*penalty)


def rms_to_fan_in(layer: Op, trace: Trace) -> list[float]:
    """rms(w) sqrt(fan_in) of each weight matrix of a layer: 1 is LeCun's initialisation, sqrt(2) He's."""
    matrices = [p for p in trace.parameters if p.name in layer.weights and len(p.shape) > 1]
    return [p.norm / math.sqrt(p.numel) * math.sqrt(p.numel / p.shape[0]) for p in matrices if p.numel]


def owner(parameter: str) -> str:
    """Path of the module that holds a parameter; of one that the root holds, the parameter's own name."""
    return module_in(parameter) or parameter


def places(ops: list[Op], paths: Paths) -> tuple[str, ...]:
    """Where to look, each place once, in order."""
    return tuple(dict.fromkeys(place(op, paths) for op in ops))
