"""Which operand of attention is it, query, key or value? Told from where the softmax stands.

Attention is softmax(q k^T) v: the product that takes a softmax's output has the value as its other operand, and the
product whose result goes into a softmax has query and key, in this order. Torch's own scaled dot-product attention, one
op where it is fused, has them in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.records.vocabulary import Factor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.measure.path import Paths
    from gradtrace.records.trace import Op

ROLES = ("query", "key", "value")
PRODUCTS = ("BmmBackward", "MmBackward")
MOST_HOPS = 6
"""Views, scaling, masks and dropout between a product and its softmax."""


def role(paths: Paths, op: int, slot: int) -> str:
    """'query', 'key' or 'value' where input `slot` of op number `op` is that, else ''."""
    name = paths.ops[op].name
    if name.startswith("ScaledDotProduct"):
        return ROLES[slot] if slot < len(ROLES) else ""
    if not name.startswith(PRODUCTS) or slot > 1:
        return ""
    other = paths.ops[op].targets[1 - slot] if len(paths.ops[op].targets) > 1 else None
    if other is not None and _is_softmax_below(paths, other[0]):
        return "value"
    return ROLES[slot] if _is_softmax_above(paths, op) else ""


def fused_heads(ops: Sequence[Op]) -> dict[str, int]:
    """Module -> number of its heads that share one tensor [batch, heads, ...]; what is measured is all of them.

    >>> fused_heads([])
    {}
    """
    found = {}
    for op in ops:
        if op.name.startswith("ScaledDotProduct") or (_is_softmax(op) and op.factor is Factor.ATTENTION):
            shape = next((stats.shape for stats in op.passed if stats is not None), ())
            if len(shape) == 4 and shape[1] > 1:
                found[op.site.module or ""] = shape[1]
    return found


def _is_softmax_below(paths: Paths, index: int) -> bool:
    for _ in range(MOST_HOPS):
        op = paths.ops[index]
        ways = [target for target in op.targets if target is not None]
        if _is_softmax(op) or len(ways) != 1 or op.factor not in _BETWEEN:
            return _is_softmax(op)
        index = ways[0][0]
    return False


def _is_softmax_above(paths: Paths, index: int) -> bool:
    for _ in range(MOST_HOPS):
        if len(paths.arrivals[index]) != 1:
            return False
        index = paths.arrivals[index][0][0]
        op = paths.ops[index]
        if _is_softmax(op) or op.factor not in _BETWEEN:
            return _is_softmax(op)
    return False


_BETWEEN = (Factor.RESHAPE, Factor.ATTENTION, Factor.WEIGHT, Factor.OTHER)


def _is_softmax(op: Op) -> bool:
    return "Softmax" in op.name and "LogSoftmax" not in op.name
