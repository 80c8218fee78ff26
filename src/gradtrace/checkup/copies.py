"""Which units are copies of one another? The same weights in, and the same gradient, so that no step ever parts them.

The weights are compared bit for bit, the gradients but for the rounding of sums. Equal weights alone are no fault: a
branch, a head or LoRA's B that starts at zero gets another gradient in each row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from gradtrace.measure.copies import are_equal_but_for_rounding, has_equal_rows
from gradtrace.measure.session import eager
from gradtrace.measure.untouched import untouched

if TYPE_CHECKING:
    from torch import Tensor, nn


def copied_units(model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], batch: Any) -> dict[str, bool]:
    """Weights whose rows are all equal, and whose gradient's are; and whether that gradient is anything but zero.

    A backward pass is made only where there are such weights.
    """
    try:
        alike = {name: parameter for name, parameter in model.named_parameters() if has_equal_rows(parameter)}
        if not alike:
            return {}
        with untouched(model, loss_fn=loss_fn, batch=batch), eager(), torch.enable_grad():
            gradients = torch.autograd.grad(loss_fn(model, batch), list(alike.values()), allow_unused=True)
    except Exception:
        return {}  # tensors of a kind of their own, or a loss that makes its own backward passes
    found: dict[str, Tensor | None] = dict(zip(alike, gradients, strict=True))
    return {name: bool(g.any()) for name, g in found.items() if g is not None and are_equal_but_for_rounding(g)}
