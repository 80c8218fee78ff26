"""Which examples are stuck behind a clipped output or loss: no gradient, although descent would lead out?

Where a function is flat, descent on its value v goes along -dL/dv. On the lower side of a ReLU or a clamp that is
harmless if dL/dv > 0 (a hinge that is satisfied: lower would be better still) and a trap if dL/dv < 0: it ought to
rise, and nothing that lies behind is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gradtrace.tape.factors import LINEAR
from gradtrace.tape.kinds import base_name
from gradtrace.tape.private import saved, shows_saved

if TYPE_CHECKING:
    from torch import Tensor
    from torch.autograd.graph import Node

    from gradtrace.tape.graph import Graph

_FLAT_BELOW = {"Relu", "Threshold", "ClampMin"}
_FLAT_ABOVE = {"ClampMax"}
_FLAT_BOTH = {"Clamp": ("min", "max"), "Hardtanh": ("min_val", "max_val")}


FLAT = frozenset({*_FLAT_BELOW, *_FLAT_ABOVE, *_FLAT_BOTH})
"""Ops that are entirely flat on one side."""


def ends(graph: Graph, kinds: frozenset[str] = FLAT) -> set[int]:
    """Ops of these kinds that no layer or product lies above: the output's own, and the loss's."""
    below, found = set[int](), set[int]()
    for index, node in enumerate(graph.nodes):  # from the loss on
        kind = base_name(node.name())
        if index not in below and kind in kinds:
            found.add(index)
        if index in below or kind in LINEAR:
            below.update(target[0] for target in graph.targets[index] if target is not None)
    return found


def trapped_frac(node: Node, passed: Tensor, received: Tensor, batch_size: int | None) -> Tensor | None:
    """Of the examples, the fraction that gets nothing from `node` and has an entry that ought to leave its flat side.

    `received` and `passed` are [batch, *]; None where there is no batch axis.
    """
    if not received.dim() or received.shape[0] != batch_size or passed.shape != received.shape:
        return None
    kind = base_name(node.name())
    if kind in _FLAT_BELOW:
        out = received < 0.0
    elif kind in _FLAT_ABOVE:
        out = received > 0.0
    elif not shows_saved():
        return None
    else:
        x = saved(node, "self")
        low, high = (saved(node, name, None) for name in _FLAT_BOTH[kind])
        out = torch.zeros_like(received, dtype=torch.bool)
        out |= (x < low) & (received < 0.0) if low is not None else out
        out |= (x > high) & (received > 0.0) if high is not None else out
    stuck = (out & (passed == 0.0)).flatten(1).any(1) if received.dim() > 1 else out & (passed == 0.0)
    reached = (passed != 0.0).flatten(1).any(1) if passed.dim() > 1 else passed != 0.0
    return (stuck & ~reached).float().mean()
