"""Are the units of a layer copies of one another? The same weights in, and the same gradient: no step ever parts them.

    w_i = w_j  and  dL/dw_i = dL/dw_j  for all units i, j of a layer:  it is one unit, as often as it is wide

Two rows of each tell nearly all layers from such ones; the others are looked at a part at a time.

Goodfellow, Bengio & Courville, Deep learning (2016), section 8.4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradtrace.measure.forward import in_parts

ROUNDING, MOST_ROUNDING = 100.0, 0.01
"""[times the format's eps; of the largest] Rows of one matrix product differ by no more where they are equal in exact
arithmetic; the second is for formats of few bits, whose sums are kept in more."""


def has_units(parameter: Tensor) -> bool:
    """Whether it has rows of numbers that are trained, one a unit."""
    if parameter.dim() < 2 or len(parameter) < 2 or not parameter.numel() or not parameter.requires_grad:
        return False
    return parameter.layout is torch.strided and parameter.is_floating_point()


def has_equal_rows(parameter: Tensor) -> bool:
    """Whether all units have the same weights, bit for bit.

    >>> has_equal_rows(torch.full((3, 2), 0.1, requires_grad=True))
    True
    """
    if not has_units(parameter):
        return False
    value = parameter.detach()
    return torch.equal(value[0], value[-1]) and all(bool((part == value[:1]).all()) for part in in_parts(value))


def are_equal_but_for(rows: Tensor, most: float) -> bool:
    """Whether the rows differ by no more than `most` of the largest entry; not where one is not finite.

    >>> are_equal_but_for(torch.tensor([[1.0, 2.0], [1.0, 2.01]]), 0.01)
    True
    """
    if rows.layout is not torch.strided or not bool(torch.isfinite(rows[0]).all()):
        return False
    largest = max(float(part.abs().max()) for part in in_parts(rows))
    return all(float((part - rows[:1]).abs().max()) <= most * largest for part in in_parts(rows))


def are_equal_but_for_rounding(gradient: Tensor) -> bool:
    """Whether all units get the same gradient."""
    return are_equal_but_for(gradient, min(ROUNDING * torch.finfo(gradient.dtype).eps, MOST_ROUNDING))
