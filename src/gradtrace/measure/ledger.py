"""What does each layer do to the gradient? The lecture's recursion, in descending order of layers.

    L'(l-1) = L'(l) a'(l) f'(l)

Rows follow the critical path of the earliest layer: the op with parameters that lies deepest, counted in such ops from
the loss. A row is a layer: the ops up to and including one op with weights. Where the path passes by layers (along a
skip connection) a row is what lies between two merges, and its weights are those passed by; what stands above the sum
and belongs to none of them (the last norm of a transformer, a norm behind the sum) has a row of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from gradtrace.measure.path import Paths, Step, log10, norm_of
from gradtrace.records.parameter_name import module_in
from gradtrace.records.vocabulary import Factor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gradtrace.records.trace import Op, ParameterStats, Trace


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One layer l: the gradient at its output, what the layer does to it, and what its weights get of it."""

    module: str
    """Path of the module that owns the weights (or the merge); 'loss' for what lies between output and loss.

    Of ``layer.forward(x)`` torch tells no call: of such an op the weights tell whose it is.
    """
    source: str
    """``file.py:12`` of the user's line, or ''."""
    function: str
    """Name of the activation function, or ''."""
    ops: tuple[int, ...]
    """Ops of the path in this row, from the loss on."""
    parameters: tuple[str, ...]
    """Parameters of the layer, or of the layers that the path passes by."""
    gradient_norm: float
    """|L'(l)|: gradient at the output of the layer."""
    gradient_rms: float
    gains: tuple[tuple[Factor, float], ...]
    """Decades per factor that occurs in the row, merges included; the sum is log10 |L'(l-1)| / |L'(l)|."""
    product_log10: float
    """Decades from the loss gradient to behind this row."""
    bound_log10: float
    """Product of max |a'| over all rows so far, in decades: k sigmoids are at most 0.25^k."""
    weight_product_log10: float
    """Product of f' over all rows so far, in decades: what the weights set against the activations' loss."""
    weight_gradient_norm: float
    """|dL/dW(l)|; NaN without weights."""
    weight_norm: float
    """|W(l)|; NaN without weights."""

    @property
    def decades(self) -> float:
        """Sum of the gains."""
        return sum(gain for _, gain in self.gains)

    @property
    def relative_gradient(self) -> float:
        """|dL/dW| / |W|."""
        return self.weight_gradient_norm / self.weight_norm if self.weight_norm else math.nan

    def of(self, factor: Factor) -> float:
        """Decades of one factor; 0 where it does not occur."""
        return dict(self.gains).get(factor, 0.0)


def ledger(trace: Trace, paths: Paths | None = None) -> tuple[LedgerRow, ...]:
    """One row per layer from the loss to the earliest layer; () where no gradient reached an op with weights."""
    paths = paths or Paths(trace)
    depths = paths.depths
    reached = [op.index for op in trace.ops if op.weights and op.received is not None]
    if not reached:
        return ()
    deepest = max(reached, key=lambda index: (depths[index], index))
    parameters = {parameter.name: parameter for parameter in trace.parameters}
    rows: list[LedgerRow] = []
    for steps, end in _split(paths, depths, deepest):
        indices = [step.op for step in steps] + ([deepest] if end is None else [])
        layers = _layers(paths, indices, end)
        num_own = _num_of_none(paths, indices, layers, end)
        if num_own:
            rows.append(_row(paths.ops, steps[:num_own], indices[:num_own], (), parameters, rows[-1] if rows else None))
        rows.append(_row(paths.ops, steps[num_own:], indices[num_own:], layers, parameters, rows[-1] if rows else None))
    return tuple(rows)


_CHANGES = (Factor.ACTIVATION, Factor.NORM, Factor.ATTENTION)


def _num_of_none(paths: Paths, indices: Sequence[int], layers: Sequence[Op], end: int | None) -> int:
    """How many of a row's first ops belong to none of the layers that it passes by; 0 where it passes by none."""
    ops = [paths.ops[index] for index in indices]
    if end is None or not layers or any(op.weights for op in ops):
        return 0
    num_first = max((place + 1 for place, op in enumerate(ops) if op.factor in _CHANGES), default=0)
    inside = _shared(op.site.module or "" for op in layers)
    outside = any(not is_inside(op.site.module or "", inside) for op in ops[:num_first] if op.factor in _CHANGES)
    behind = num_first < len(ops) and _layers(paths, indices[num_first:], end) == list(layers)
    return num_first if outside and behind else 0


def is_inside(module: str, whole: str) -> bool:
    """Whether a module is `whole` or lies within it ('' is the model)."""
    return not whole or module == whole or module.startswith(f"{whole}.")


def _split(paths: Paths, depths: Sequence[int], deepest: int) -> Iterator[tuple[list[Step], int | None]]:
    """The steps of each row and the op behind it; None behind the last row, which ends with the deepest layer."""
    ops, row = paths.ops, list[Step]()
    path = paths.path(deepest)
    start = path[0].op if path else deepest
    for step, end in zip(path, [*(step.op for step in path[1:]), deepest], strict=False):
        row.append(step)
        loss_ends = ops[step.op].factor is Factor.LOSS and ops[end].factor is not Factor.LOSS
        passes_by = len(paths.arrivals[end]) > 1 and depths[end] > depths[start]
        if ops[step.op].weights or loss_ends or passes_by:
            yield row, end
            row, start = [], end
    yield row, None


def _layers(paths: Paths, indices: Sequence[int], end: int | None) -> list[Op]:
    """The ops with weights of a row: its own, or those between its first op and `end` that the path passes by."""
    own = [paths.ops[index] for index in indices if paths.ops[index].weights]
    if own or end is None or len(paths.arrivals[end]) < 2:
        return own
    stack, seen = [end], {end}
    while stack:
        for source, _ in paths.arrivals[stack.pop()]:
            if source > indices[0] and source not in seen:
                seen.add(source)
                stack.append(source)
    return [paths.ops[index] for index in sorted(seen - {end}) if paths.ops[index].weights]


def _row(
    ops: Sequence[Op],
    steps: Sequence[Step],
    indices: Sequence[int],
    layers: Sequence[Op],
    parameters: dict[str, ParameterStats],
    above: LedgerRow | None,
) -> LedgerRow:
    gains = _gains(ops, steps)
    activations = [ops[i].activation for i in indices if ops[i].factor is Factor.ACTIVATION]
    names = tuple(dict.fromkeys(name for op in layers for name in op.weights))
    gradient_norm, weight_norm = _weight_norms([parameters[name] for name in names if name in parameters])
    first = ops[indices[0]]
    named = layers or [ops[i] for i in indices if ops[i].factor in _CHANGES] or [first]
    site = named[0].site
    return LedgerRow(
        module="loss" if all(ops[i].factor is Factor.LOSS for i in indices) else _shared(map(_holder, named)),
        source=site.source,
        function=next((stats.function for stats in activations if stats), ""),
        ops=tuple(indices),
        parameters=names,
        gradient_norm=norm_of(first),
        gradient_rms=first.received.rms if first.received else 0.0,
        gains=tuple((factor, gains[factor]) for factor in Factor if factor in gains),
        product_log10=(above.product_log10 if above else 0.0) + sum(gains.values()),
        bound_log10=(above.bound_log10 if above else 0.0)
        + sum(_bound_log10(stats.derivative_max) for stats in activations if stats),
        weight_product_log10=(above.weight_product_log10 if above else 0.0) + gains.get(Factor.WEIGHT, 0.0),
        weight_gradient_norm=gradient_norm,
        weight_norm=weight_norm,
    )


def _gains(ops: Sequence[Op], steps: Sequence[Step]) -> dict[Factor, float]:
    gains: dict[Factor, float] = {}
    for step in steps:
        factor = ops[step.op].factor
        gains[factor] = gains.get(factor, 0.0) + step.gain_log10
        if step.merge_log10 != 0.0:
            gains[Factor.MERGE] = gains.get(Factor.MERGE, 0.0) + step.merge_log10
    return gains


def _bound_log10(derivative_max: float) -> float:
    return math.inf if derivative_max == math.inf else log10(derivative_max)


def _shared(modules: Iterable[str]) -> str:
    """The innermost module that holds all these."""
    shared = zip(*(module.split(".") for module in modules), strict=False)
    return ".".join(parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, shared))


def _holder(op: Op) -> str:
    """The module that an op is of: the one whose forward pass it is part of, or within that the one of its weights."""
    module = op.site.module or ""
    held = _shared(map(module_in, op.weights))
    return held if is_inside(held, module) else module


def _weight_norms(parameters: Sequence[ParameterStats]) -> tuple[float, float]:
    """|dL/dW| and |W| over the matrices among `parameters`, or over all where there is no matrix."""
    matrices = [parameter for parameter in parameters if len(parameter.shape) > 1] or parameters
    trained = [parameter for parameter in matrices if parameter.gradient is not None]
    gradient_norm = math.hypot(*(p.gradient.norm for p in trained if p.gradient)) if trained else math.nan
    return gradient_norm, math.hypot(*(p.norm for p in matrices)) if matrices else math.nan
