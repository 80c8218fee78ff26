"""Norms of the gradients of many tensors from one backward pass; no gradient is kept."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor
    from torch.utils.hooks import RemovableHandle
    from typing_extensions import Self

    from gradtrace.recurrence.chain import Place


SPENT_ULPS = 16.0
"""[smallest numbers of the format] A gradient no larger than this per entry is rounding: what multiplies it again and
again stands still there, whatever the network does."""

NARROW = 1e-30
"""Formats whose smallest normal number is above (float16) lose gradients that a network still has: those are told as
they are, and by a rule of their own."""


class Tap:
    """A context with a hook on each place of each group; a group's norm is that of the sum of its gradients."""

    def __init__(self, groups: Sequence[tuple[Place, ...]]) -> None:
        self._groups = groups
        self._handles: list[RemovableHandle] = []
        self._norms: dict[int, Tensor] = {}
        self._sums: dict[int, Tensor] = {}

    def __enter__(self) -> Self:
        for index, group in enumerate(self._groups):
            hook = self._norm_hook(index) if len(group) == 1 else self._sum_hook(index)
            self._handles += [handle for place in group if (handle := _hooked(place, hook)) is not None]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _norm_hook(self, index: int) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            self._norms[index] = _told(gradient)

        return hook

    def _sum_hook(self, index: int) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            known = self._sums.get(index)
            self._sums[index] = gradient if known is None else known + gradient

        return hook

    def norms(
        self, outputs: Sequence[Tensor], cotangents: Sequence[Tensor] | None, sources: Sequence[Tensor]
    ) -> tuple[np.ndarray[Any, np.dtype[np.float64]], list[Tensor | None]]:
        """One backward pass from `outputs` to `sources`: the norm of every group (0: none but rounding), float64."""
        self._norms.clear()
        self._sums.clear()
        gradients = torch.autograd.grad(outputs, sources, cotangents, retain_graph=True, allow_unused=True)
        self._norms |= {index: _told(total) for index, total in self._sums.items()}
        self._sums.clear()
        found = np.zeros(len(self._groups))
        if self._norms:
            found[list(self._norms)] = torch.stack(list(self._norms.values())).cpu().numpy()  # crosses to the host once
        return found, list(gradients)


def _hooked(place: Place, hook: Callable[[Tensor], None]) -> RemovableHandle | None:
    """`hook` on the gradient of a tensor, or of one output of an op."""
    if isinstance(place, torch.Tensor):
        return place.register_hook(hook) if place.requires_grad else None
    node, output = place

    def prehook(gradients: Sequence[Tensor | None]) -> None:
        gradient = gradients[output]
        if gradient is not None:
            hook(gradient)

    return node.register_prehook(prehook)


def _told(gradient: Tensor) -> Tensor:
    """Its norm, and 0 at the very end of its format."""
    found, info = norm(gradient), torch.finfo(gradient.dtype)
    spent = SPENT_ULPS * info.smallest_normal * info.eps * math.sqrt(gradient.numel())
    return found.masked_fill(found <= spent, 0.0) if info.smallest_normal < NARROW else found


def norm(tensor: Tensor) -> Tensor:
    """Frobenius norm in float64, 0-dim."""
    values = tensor.detach()
    values = values.coalesce().values() if values.is_sparse else values
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    found: Tensor = torch.linalg.vector_norm(values, dtype=torch.float64)
    return found
