"""Units that are copies of one another: the same weights in, and the same gradient, so that no step ever parts them.

    w_i = w_j  and  dL/dw_i = dL/dw_j  for all units i, j of a layer:  it is one unit, as often as it is wide

Goodfellow, Bengio & Courville, Deep learning (2016), section 8.4.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from gradtrace.errors import GradtraceError
from gradtrace.measure.untouched import fixed_random_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

ROUNDING = 100.0
"""[times the format's eps] Rows of one matrix product differ by no more where they are equal in exact arithmetic."""


def with_equal_rows(model: nn.Module) -> list[str]:
    """Weights that are trained, of several rows that are all equal."""
    named = [(n, p) for n, p in model.named_parameters() if p.dim() > 1 and len(p) > 1 and p.requires_grad]
    return [name for name, parameter in named if _has_equal_rows(parameter)]


def copies(model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], batch: Any) -> tuple[str, ...]:
    """Those of them whose gradient's rows are equal, too; `model` is the caller's own, which gets gradients.

    Zeros that get a gradient of zeros are none: what they are multiplied by may start at zero by design.
    """
    alike = with_equal_rows(model)
    if not alike:
        return ()
    try:
        with fixed_random_state():
            loss_fn(model, batch).backward()
    except (GradtraceError, RuntimeError):
        return ()
    parameters = dict(model.named_parameters())
    found = [(name, parameters[name], parameters[name].grad) for name in alike]
    return tuple(name for name, p, g in found if g is not None and _has_equal_rows(g) and (p.any() or g.any()))


def copied_units(model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], batch: Any) -> tuple[str, ...]:
    """`copies` of a model that stays as it is; () where it cannot be copied."""
    if not with_equal_rows(model):
        return ()
    try:
        twin, twin_loss_fn = copy.deepcopy((model, loss_fn))
    except Exception:  # locks, files, tensors that are no leaves
        return ()
    twin.zero_grad(set_to_none=True)
    return copies(twin, twin_loss_fn, batch)


def _has_equal_rows(value: Tensor) -> bool:
    value = value.detach()
    if value.is_sparse or not value.is_floating_point() or not value.numel():
        return False
    most = value.abs().max() * ROUNDING * torch.finfo(value.dtype).eps
    return bool((value - value[:1]).abs().max() <= most)
