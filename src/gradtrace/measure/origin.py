"""Where was the first NaN or Inf born? Forward, by following the loss up its values; backward, by following the ops.

A NaN is born where no operand holds one. An Inf among its operands is followed further up to where it came out of
finite numbers, unless it was put there on purpose (the -inf of an attention mask): then the op that cannot bear it is
the birthplace.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from gradtrace.records.parameter_name import module_in
from gradtrace.records.trace import Birth, Site
from gradtrace.tape.dataflow import tensors_in
from gradtrace.tape.source import operand_at

if TYPE_CHECKING:
    import numpy as np

    from gradtrace.measure.session import Forward
    from gradtrace.records.trace import Op, Trace
    from gradtrace.tape.recorder import Call

_MASKS = {"masked_fill", "masked_fill_", "where", "full", "full_like", "new_full", "fill_", "tensor", "triu", "tril"}


@dataclass(frozen=True, slots=True)
class _Value:
    call: Call
    has_nan: bool
    has_inf: bool
    operands: tuple[tuple[float, float], ...]
    holds_zero: bool = False
    """Whether the range of what was made ends at zero: what a division, a logarithm or a root cannot bear."""

    @property
    def born_here(self) -> bool:
        return all(math.isfinite(low) and math.isfinite(high) for low, high in self.operands)


def find_birth(forward: Forward, trace: Trace, arrays: list[np.ndarray]) -> Birth | None:
    """The birthplace of the loss's NaN or Inf, or else of the gradient's; None when all is finite."""
    if not math.isfinite(trace.loss) and trace.probe == "loss":
        return _parameter(trace) or _forward_birth(forward, arrays)
    return backward_birth(trace)


def not_of_batch(trace: Trace, batch: Any) -> Trace:
    """`trace`, a number from outside told to be a constant's where every number of `batch` is finite."""
    birth = trace.nonfinite
    if birth is None or birth.phase != "input":
        return trace
    held = list(tensors_in(batch))
    if not held or not all(bool(torch.isfinite(tensor).all()) for tensor in held if tensor.layout is torch.strided):
        return trace
    return replace(trace, nonfinite=replace(birth, phase="constant"))


def _parameter(trace: Trace) -> Birth | None:
    for parameter in trace.parameters:
        if not parameter.finite:
            return Birth("parameter", parameter.name, Site(module_in(parameter.name)))
    return None


def _forward_birth(forward: Forward, arrays: list[np.ndarray]) -> Birth | None:
    values: dict[int, _Value] = {}
    for call, seen in forward.observer.history:
        ranges = [(float(arrays[h][0]), float(arrays[h][1])) for h in seen.results]
        flat = [number for pair in ranges for number in pair]
        operands = tuple((float(arrays[h][0]), float(arrays[h][1])) for h in seen.operands)
        holds_zero = bool(flat) and 0.0 in (min(flat), max(flat))
        value = _Value(call, any(map(math.isnan, flat)), any(map(math.isinf, flat)), operands, holds_zero)
        values |= dict.fromkeys(call.values, value)
    parents = forward.recorder.dataflow.ancestors(forward.loss)
    sick = [i for i in sorted(parents) if i in values and (values[i].has_nan or values[i].has_inf)]
    if not sick:
        return None
    nans = [i for i in sick if values[i].has_nan]
    born = next((i for i in nans if not any(p in values and values[p].has_nan for p in parents[i])), None)
    start = born if born is not None else sick[-1]
    index = _origin(start, values, parents)
    value = values[index]
    phase = "input" if _came_from_outside(index, values, parents) else "forward"
    (detail, largest), name, site = _describe(value), value.call.name, value.call.site
    operand, fed_by = operand_at(site.source, name), _feeder(index, values, parents)
    return Birth(phase, name, site, detail, largest, operand, fed_by)


def _feeder(index: int, values: dict[int, _Value], parents: dict[int, tuple[int, ...]]) -> str:
    """The nearest module whose output comes to `index` through functions alone, by way of operands that end at zero."""
    if values[index].call.site.module:
        return ""
    stack, seen = [index], set[int]()
    while stack:
        one = stack.pop()
        if module := values[one].call.site.module:
            return module
        seen.add(one)
        made = [p for p in parents[one] if p in values and p not in seen]
        stack.extend(sorted(made, key=lambda p: values[p].holds_zero))  # those that end at zero are looked at first
    return ""


def _origin(start: int, values: dict[int, _Value], parents: dict[int, tuple[int, ...]]) -> int:
    """Up through operands that are not finite to where the first came out of finite ones, or from outside."""
    stack, seen, origins = [start], set[int](), []
    while stack:
        index = stack.pop()
        if index in seen:
            continue
        seen.add(index)
        made_here = values[index].born_here and values[index].call.name not in _MASKS
        if made_here or _came_from_outside(index, values, parents):
            origins.append(index)
        stack.extend(p for p in parents[index] if p in values and (values[p].has_inf or values[p].has_nan))
    return min(origins, default=start)


def _came_from_outside(index: int, values: dict[int, _Value], parents: dict[int, tuple[int, ...]]) -> bool:
    """Whether an operand that no function made is not finite, the -inf of a mask apart: a number of the batch."""
    value = values[index]
    made = [values[p] for p in parents[index] if p in values]
    if value.born_here or any(value.has_nan or value.has_inf for value in made):
        return False
    strange = [(low, high) for low, high in value.operands if not (math.isfinite(low) and math.isfinite(high))]
    masks = all(low == -math.inf and high < math.inf for low, high in strange)
    return not (masks and value.call.name in _TAKES_MASK)


_TAKES_MASK = {
    "softmax", "scaled_dot_product_attention", "multi_head_attention_forward", "log_softmax", "where", "masked_fill",
    "masked_fill_", "add", "add_", "__add__", "__radd__", "__iadd__", "baddbmm",
}  # fmt: skip


def _describe(value: _Value) -> tuple[str, float]:
    finite = [(low, high) for low, high in value.operands if math.isfinite(low) and math.isfinite(high)]
    if not finite:
        return "", math.nan
    low, high = min(low for low, _ in finite), max(high for _, high in finite)
    return f"operands between {low:.4g} and {high:.4g}", max(abs(low), abs(high))


def backward_birth(trace: Trace) -> Birth | None:
    """The first op, from the loss on, that made a non-finite gradient out of a finite one."""
    for op in trace.ops:
        if op.received is None or op.received.nonfinite_frac > 0.0:
            continue
        bad = [stats for stats in op.passed if stats is not None and stats.nonfinite_frac > 0.0]
        if bad:
            operand = operand_at(op.site.source, op.function)
            return Birth("backward", op.name, op.site, _backward_detail(op), op.received.max_abs, operand)
    return None


def _backward_detail(op: Op) -> str:
    return f"received at most {op.received.max_abs:.4g} and passed on NaN or Inf" if op.received is not None else ""
