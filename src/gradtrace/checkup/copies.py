"""Which units of a network are copies of one another (`measure.copies`), and would no gradient ever part them?

The weights are compared bit for bit, the gradients but for the rounding of sums. Equal weights alone are no fault: a
branch, a head or LoRA's B that starts at zero gets another gradient in each row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gradtrace.measure.copies import arrangements, get_the_same
from gradtrace.measure.session import eager
from gradtrace.measure.untouched import untouched

if TYPE_CHECKING:
    from torch import Tensor

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def copied_units(model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], batch: Any) -> dict[str, bool]:
    """Weights whose units are all equal, and whose gradient's are; and whether that gradient is anything but zero."""
    return {name: moves for name, (moves, _) in copies_and_axes(model, loss_fn, batch).items()}


def copies_and_axes(model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], batch: Any) -> dict[str, tuple[bool, int]]:
    """The same, with the axis along which the units lie. A backward pass is made only where there are such weights."""
    try:
        found = {name: arrangements(p, _axes(model, name, p)) for name, p in model.named_parameters()}
        alike = {name: kept for name, kept in found.items() if kept}
        if not alike:
            return {}
        weights = [model.get_parameter(name) for name in alike]
        with untouched(model, loss_fn=loss_fn, batch=batch), eager(), torch.enable_grad():
            gradients = torch.autograd.grad(loss_fn(model, batch), weights, allow_unused=True)
    except Exception:
        return {}  # tensors of a kind of their own, or a loss that makes its own backward passes
    told: dict[str, Tensor | None] = dict(zip(alike, gradients, strict=True))
    known = {name: g for name, g in told.items() if g is not None}
    same = {name: [one for one in alike[name] if get_the_same(g, one)] for name, g in known.items()}
    return {name: (bool(known[name].any()), kept[0][0]) for name, kept in same.items() if kept}


def _axes(model: nn.Module, name: str, parameter: Tensor) -> tuple[int, ...]:
    """Along which its units may lie: of a bare parameter, its use would tell, and its gradient does."""
    owner = model.get_submodule(name.rpartition(".")[0])
    if isinstance(owner, _TRANSPOSED):
        return (1,) if owner.groups == 1 else ()
    is_bare = not type(owner).__module__.startswith("torch.nn") or isinstance(
        owner, nn.ParameterList | nn.ParameterDict
    )
    return (0, 1) if is_bare and parameter.dim() == 2 else (0,)
