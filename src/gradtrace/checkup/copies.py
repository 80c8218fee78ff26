"""Which units are copies of one another? The same weights in, and the same gradient, so that no step ever parts them.

    w_i = w_j  and  dL/dw_i = dL/dw_j  for all units i, j of a layer:  it is one unit, as often as it is wide

A unit's weights are a row; of a transposed convolution, and of x @ W, a column. In a gated cell the rows of each gate
are units of their own, alike within the gate: its gates get different gradients, and its cells all the same ones.

The weights are compared bit for bit, the gradients but for the rounding of sums. Equal weights alone are no fault: a
branch, a head or LoRA's B that starts at zero gets another gradient in each row.

Goodfellow, Bengio & Courville, Deep learning (2016), section 8.4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gradtrace.measure.session import eager
from gradtrace.measure.untouched import untouched

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING, MOST_ROUNDING = 100.0, 0.01
"""[times the format's eps; of the largest] Rows of one matrix product differ by no more where they are equal in exact
arithmetic; the second is for formats of few bits, whose sums are kept in more."""


GATES = (1, 3, 4)
"""Maps that are stored as one: queries, keys and values, or a GRU's; an LSTM's."""
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def copied_units(model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], batch: Any) -> dict[str, bool]:
    """Weights whose units are all equal, and whose gradient's are; and whether that gradient is anything but zero."""
    return {name: moves for name, (moves, _) in copies_and_axes(model, loss_fn, batch).items()}


def copies_and_axes(model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], batch: Any) -> dict[str, tuple[bool, int]]:
    """The same, with the axis along which the units lie. A backward pass is made only where there are such weights."""
    try:
        found = {name: _arrangements(model, name, parameter) for name, parameter in model.named_parameters()}
        alike = {name: kept for name, kept in found.items() if kept}
        if not alike:
            return {}
        weights = [model.get_parameter(name) for name in alike]
        with untouched(model, loss_fn=loss_fn, batch=batch), eager(), torch.enable_grad():
            gradients = torch.autograd.grad(loss_fn(model, batch), weights, allow_unused=True)
    except Exception:
        return {}  # tensors of a kind of their own, or a loss that makes its own backward passes
    told: dict[str, Tensor | None] = dict(zip(alike, gradients, strict=True))
    known = {name: (g, alike[name]) for name, g in told.items() if g is not None}
    axes = {name: [axis for axis, num in kept if _are_alike(g, axis, num)] for name, (g, kept) in known.items()}
    return {name: (bool(known[name][0].any()), found[0]) for name, found in axes.items() if found}


def _arrangements(model: nn.Module, name: str, parameter: Tensor) -> list[tuple[int, int]]:
    """(axis of the units, gates along it) by which the weights' units are equal within each gate."""
    if parameter.dim() < 2 or not parameter.numel() or not parameter.requires_grad:
        return []
    if parameter.layout is not torch.strided or not parameter.is_floating_point():
        return []
    axes = _axes(model.get_submodule(name.rpartition(".")[0]), parameter)
    return [(axis, num) for axis in axes for num in GATES if _are_equal(parameter.detach(), axis, num)]


def _axes(owner: nn.Module, parameter: Tensor) -> tuple[int, ...]:
    """Along which its units may lie: of a bare parameter, its use would tell, and its gradient does."""
    if isinstance(owner, _TRANSPOSED):
        return (1,) if owner.groups == 1 else ()
    is_bare = not type(owner).__module__.startswith("torch.nn") or isinstance(
        owner, nn.ParameterList | nn.ParameterDict
    )
    return (0, 1) if is_bare and parameter.dim() == 2 else (0,)


def _gates(weight: Tensor, axis: int, num: int) -> Tensor | None:
    """[gates, units, weights of a unit]; None where there are not two units in each."""
    rows = weight.transpose(0, axis)
    if len(rows) % num or len(rows) < 2 * num:
        return None
    return rows.reshape(num, len(rows) // num, -1)


def _are_equal(weight: Tensor, axis: int, num: int) -> bool:
    gates = _gates(weight, axis, num)
    return gates is not None and torch.equal(gates[0, 0], gates[0, -1]) and bool((gates == gates[:, :1]).all())


def _are_alike(gradient: Tensor, axis: int, num: int) -> bool:
    """Equal but for rounding."""
    if gradient.layout is not torch.strided or not bool(torch.isfinite(gradient).all()):
        return False
    gates = _gates(gradient, axis, num)
    assert gates is not None  # as the weights had them
    most = min(ROUNDING * torch.finfo(gradient.dtype).eps, MOST_ROUNDING) * gradient.abs().max()
    return bool((gates - gates[:, :1]).abs().max() <= most)
