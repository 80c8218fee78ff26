"""Which units are copies of one another? The same weights in, and the same gradient, so that no step ever parts them.

    w_i = w_j  and  dL/dw_i = dL/dw_j  for all units i, j of a layer:  it is one unit, as often as it is wide

The weights are compared bit for bit, the gradients but for the rounding of sums. Equal weights alone are no fault: a
branch, a head or LoRA's B that starts at zero gets another gradient in each row.

Goodfellow, Bengio & Courville, Deep learning (2016), section 8.4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from gradtrace.measure.session import eager
from gradtrace.measure.untouched import untouched

if TYPE_CHECKING:
    from torch import Tensor, nn

ROUNDING, MOST_ROUNDING = 100.0, 0.01
"""[times the format's eps; of the largest] Rows of one matrix product differ by no more where they are equal in exact
arithmetic; the second is for formats of few bits, whose sums are kept in more."""


def copied_units(model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], batch: Any) -> dict[str, bool]:
    """Weights whose rows are all equal, and whose gradient's are; and whether that gradient is anything but zero.

    A backward pass is made only where there are such weights.
    """
    try:
        alike = {name: parameter for name, parameter in model.named_parameters() if _has_equal_rows(parameter)}
        if not alike:
            return {}
        with untouched(model, loss_fn=loss_fn, batch=batch), eager(), torch.enable_grad():
            gradients = torch.autograd.grad(loss_fn(model, batch), list(alike.values()), allow_unused=True)
    except Exception:
        return {}  # tensors of a kind of their own, or a loss that makes its own backward passes
    found: dict[str, Tensor | None] = dict(zip(alike, gradients, strict=True))
    return {name: bool(g.any()) for name, g in found.items() if g is not None and _are_equal_but_for_rounding(g)}


def _has_equal_rows(parameter: Tensor) -> bool:
    if parameter.dim() < 2 or len(parameter) < 2 or not parameter.numel() or not parameter.requires_grad:
        return False
    if parameter.layout is not torch.strided or not parameter.is_floating_point():
        return False
    value = parameter.detach()
    return torch.equal(value[0], value[-1]) and bool((value == value[:1]).all())


def _are_equal_but_for_rounding(gradient: Tensor) -> bool:
    if gradient.layout is not torch.strided or not bool(torch.isfinite(gradient).all()):
        return False
    most = min(ROUNDING * torch.finfo(gradient.dtype).eps, MOST_ROUNDING) * gradient.abs().max()
    return bool((gradient - gradient[:1]).abs().max() <= most)
