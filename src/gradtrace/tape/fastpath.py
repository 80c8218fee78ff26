"""Does torch take its fast path through attention where it would without us?

A frozen ``nn.TransformerEncoder`` in eval mode runs fused kernels, whose numbers are others (padding comes out as
zeros), unless "hooks are attached" to a layer or a function mode is active (torch/nn/modules/transformer.py,
``why_not_sparsity_fast_path``). So a mode of ours keeps still when it is asked for, and hooks step aside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn, overrides

from gradtrace.tape.private import only_modes, without_modes

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.overrides import TorchFunctionMode

_unseen: list[TorchFunctionMode] = []
_before: list[Callable[..., bool]] = []


def keep_unseen(mode: TorchFunctionMode) -> None:
    """Until `show`, ``torch.overrides.has_torch_function`` answers as it would without `mode`."""
    if not _unseen:
        _before[:] = [overrides.has_torch_function]
        overrides.has_torch_function = _has_torch_function
    _unseen.append(mode)


def show(mode: TorchFunctionMode) -> None:
    """The end of `keep_unseen`; more than once does no harm."""
    if not any(other is mode for other in _unseen):
        return
    _unseen[:] = [other for other in _unseen if other is not mode]
    if not _unseen and overrides.has_torch_function is _has_torch_function:
        overrides.has_torch_function = _before.pop()


def _has_torch_function(args: Any) -> bool:
    if only_modes(_unseen):
        with without_modes():
            return _before[0](args)
    return _before[0](args)


def may_be_fast(module: nn.Module, args: tuple[Any, ...]) -> bool:
    """Whether hooks may keep this call from the fast path: of a layer in eval mode that no gradient goes through.

    >>> layer, x = torch.nn.TransformerEncoderLayer(8, 2), torch.randn(3, 1, 8)
    >>> may_be_fast(layer, (x,)), may_be_fast(layer.eval(), (x,)), may_be_fast(layer.requires_grad_(False), (x,))
    (False, False, True)
    """
    if not isinstance(module, nn.TransformerEncoderLayer) or module.training:
        return False
    if not torch.is_grad_enabled():
        return True
    needed = any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)
    return not needed and not all(parameter.requires_grad for parameter in module.parameters())
