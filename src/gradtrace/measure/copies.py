"""Are the units of a layer copies of one another? The same weights in, and the same gradient: no step ever parts them.

    w_i = w_j  and  dL/dw_i = dL/dw_j  for all units i, j of a layer:  it is one unit, as often as it is wide

A unit's weights are a row; of a transposed convolution, and of x @ W, a column. In a gated cell the rows of each gate
are units of their own, alike within the gate: its gates get different gradients, and its cells all the same ones.

Two rows of each tell nearly all layers from such ones; the others are looked at a part at a time.

Goodfellow, Bengio & Courville, Deep learning (2016), section 8.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gradtrace.measure.forward import in_parts

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING, MOST_ROUNDING = 100.0, 0.01
"""[times the format's eps; of the largest] Rows of one matrix product differ by no more where they are equal in exact
arithmetic; the second is for formats of few bits, whose sums are kept in more."""

GATES = (1, 3, 4)
"""Maps that are stored as one: queries, keys and values, or a GRU's; an LSTM's."""

Arrangement = tuple[int, int]
"""The axis along which the units lie, and how many gates they are of."""


def has_units(parameter: Tensor) -> bool:
    """Whether it has rows of numbers that are trained, one a unit."""
    if parameter.dim() < 2 or len(parameter) < 2 or not parameter.numel() or not parameter.requires_grad:
        return False
    return parameter.layout is torch.strided and parameter.is_floating_point()


def arrangements(parameter: Tensor, axes: tuple[int, ...] = (0,)) -> list[Arrangement]:
    """Those by which all units of each gate have the same weights, bit for bit.

    >>> arrangements(torch.full((6, 2), 0.1, requires_grad=True))
    [(0, 1), (0, 3)]
    """
    if not has_units(parameter):
        return []
    found = []
    for arrangement in ((axis, num) for axis in axes for num in GATES):
        gates = gates_of(parameter.detach(), arrangement)
        if gates and all(map(_are_equal, gates)):
            found.append(arrangement)
    return found


def gates_of(tensor: Tensor, arrangement: Arrangement) -> list[Tensor]:
    """The rows of each gate; [] where there are not two in each.

    >>> [len(rows) for rows in gates_of(torch.zeros(2, 8), (1, 4))]
    [2, 2, 2, 2]
    """
    axis, num = arrangement
    rows = tensor.transpose(0, axis)
    return list(rows.split(len(rows) // num)) if len(rows) % num == 0 and len(rows) >= 2 * num else []


def are_equal_but_for(tensor: Tensor, most: float, arrangement: Arrangement = (0, 1)) -> bool:
    """Whether the rows of each gate differ by no more than `most` of the largest entry; not where one is not finite.

    >>> are_equal_but_for(torch.tensor([[1.0, 2.0], [1.0, 2.01]]), 0.01)
    True
    """
    if tensor.layout is not torch.strided or not bool(torch.isfinite(tensor[0]).all()):
        return False
    largest = max(float(part.abs().max()) for part in in_parts(tensor))
    gates = gates_of(tensor, arrangement)
    return bool(gates) and all(
        float((part - rows[:1]).abs().max()) <= most * largest for rows in gates for part in in_parts(rows)
    )


def get_the_same(gradient: Tensor, arrangement: Arrangement = (0, 1)) -> bool:
    """Whether all units of each gate get the same gradient, but for rounding."""
    most = min(ROUNDING * torch.finfo(gradient.dtype).eps, MOST_ROUNDING)
    return are_equal_but_for(gradient, most, arrangement)


def _are_equal(rows: Tensor) -> bool:
    return torch.equal(rows[0], rows[-1]) and all(bool((part == rows[:1]).all()) for part in in_parts(rows))
