"""Are the outputs cosines? A product of rows of unit length with columns of unit length lies in [-1, 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.tape import private

if TYPE_CHECKING:
    from torch.autograd.graph import Node

_NORMS = {"LinalgVectorNorm", "Norm"}
_ON_THE_WAY = {"Expand", "ClampMin", "Clamp", "Add", "Unsqueeze"}
"""Between a norm and the division by it."""

_LAST = ((1,), (-1,), (2**64 - 1,), 1, -1)
"""The axis of a matrix's rows, as the tape keeps it."""


def are_cosines(node: Node) -> bool:
    """Whether a product of two matrices is one of vectors that were each divided by its own norm.

    >>> import torch
    >>> import torch.nn.functional as F
    >>> x, w = (torch.ones(2, 3, requires_grad=True) for _ in range(2))
    >>> are_cosines((F.normalize(x) @ F.normalize(w).T).grad_fn), are_cosines((F.normalize(x) @ w.T).grad_fn)
    (True, False)
    """
    sides = [side for side, _ in node.next_functions]
    if _name(node) != "Mm" or len(sides) != 2:
        return False
    left, right = sides
    return left is not None and right is not None and _of_unit_length(left) and _of_unit_length(_turned(right))


def _turned(node: Node) -> Node:
    """What a matrix was before it was transposed; one that was not has its vectors along the other axis."""
    below = node.next_functions[0][0] if _name(node) in ("T", "Transpose", "Permute") else None
    return below if below is not None else node


def _of_unit_length(node: Node) -> bool:
    below = node.next_functions[1][0] if _name(node) == "Div" and len(node.next_functions) == 2 else None
    while below is not None and _name(below) in _ON_THE_WAY:
        below = below.next_functions[0][0]
    return below is not None and _name(below) in _NORMS and private.saved(below, "dim", None) in _LAST


def _name(node: Node) -> str:
    return node.name().rpartition("::")[2].partition("Backward")[0]
