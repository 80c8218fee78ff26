"""Are the outputs cosines? A product of rows of unit length with columns of unit length lies in [-1, 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.tape import private

if TYPE_CHECKING:
    from torch import Tensor
    from torch.autograd.graph import Node

_NORMS = {"LinalgVectorNorm", "Norm"}
_ON_THE_WAY = {"Expand", "ClampMin", "Clamp", "Add", "Unsqueeze", "Clone"}
"""Between a norm and the division by it."""

_MOVES = {"View", "UnsafeView", "ReshapeAlias", "Unsqueeze", "Squeeze", "Transpose", "T", "Permute", "Expand", "Clone"}
"""That leave each vector's length as it is."""

_LAST = ((1,), (-1,), (2**64 - 1,), 1, -1)
"""The axis of a matrix's rows, as the tape keeps it."""


def are_cosines(node: Node) -> bool:
    """Whether a product of two matrices is one of vectors that were each divided by its own norm.

    >>> import torch
    >>> import torch.nn.functional as F
    >>> x, w = (torch.ones(2, 3, requires_grad=True) for _ in range(2))
    >>> are_cosines((F.normalize(x) @ F.normalize(w).T).grad_fn), are_cosines((F.normalize(x) @ w.T).grad_fn)
    (True, False)
    >>> are_cosines(F.cosine_similarity(x[:, None], w[None], dim=-1).grad_fn)
    True
    """
    sides = [side for side, _ in node.next_functions]
    if _name(node) == "Sum":  # of products, as F.cosine_similarity writes it
        product = sides[0] if sides else None
        dims = _dims(node)
        return (
            product is not None
            and _name(product) == "Mul"
            and len(dims) == 1
            and all(norm is not None and _dims(norm) == dims for norm in map(_divisor, _operands(product)))
        )
    if len(sides) != 2 or sides[0] is None or sides[1] is None:
        return False
    if _name(node) == "Bmm":
        return all(_is_along(_divisor(_moved(side)), private.saved(node, "self", None)) for side in sides if side)
    return _name(node) == "Mm" and _of_unit_length(sides[0]) and _of_unit_length(_turned(sides[1]))


def _operands(node: Node) -> list[Node | None]:
    return [side for side, _ in node.next_functions]


def _is_along(norm: Node | None, left: Tensor | None) -> bool:
    """Whether a norm was taken along the axis that a product of matrices, of `left`, sums over: by its size alone."""
    whole = private.saved(norm, "self", None) if norm is not None else None
    if norm is None or left is None or whole is None or len(_dims(norm)) != 1:
        return False
    dim = _dims(norm)[0]
    dim = dim - 2**64 if dim >= 2**63 else dim
    size: int = whole.shape[dim]
    return size == left.shape[-1] and list(whole.shape).count(size) == 1


def _moved(node: Node | None) -> Node | None:
    for _ in range(8):
        if node is None or _name(node) not in _MOVES:
            break
        node = node.next_functions[0][0]
    return node


def _dims(node: Node) -> tuple[int, ...]:
    dims = private.saved(node, "dim", None)
    return () if dims is None else (dims,) if isinstance(dims, int) else tuple(dims)


def _turned(node: Node) -> Node:
    """What a matrix was before it was transposed; one that was not has its vectors along the other axis."""
    below = node.next_functions[0][0] if _name(node) in ("T", "Transpose", "Permute") else None
    return below if below is not None else node


def _of_unit_length(node: Node) -> bool:
    norm = _divisor(node)
    return norm is not None and private.saved(norm, "dim", None) in _LAST


def _divisor(node: Node | None) -> Node | None:
    """The norm that a tensor was divided by; None: it was not."""
    if node is None or _name(node) != "Div" or len(node.next_functions) != 2:
        return None
    below = node.next_functions[1][0]
    while below is not None and _name(below) in _ON_THE_WAY:
        below = below.next_functions[0][0]
    is_norm = below is not None and _name(below) in _NORMS and private.saved(below, "ord", 2) in (2, None)
    return below if is_norm else None


def _name(node: Node) -> str:
    return node.name().rpartition("::")[2].partition("Backward")[0]
