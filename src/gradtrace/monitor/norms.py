"""The numbers of every step, by fused kernels on the device: norms of gradients, weights and updates.

Nothing waits for the device: its numbers are copied to the host in the background and read some steps later.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor


@dataclass(slots=True)
class Ferry:
    """Carries small tensors to the host: at once from the CPU, without waiting from elsewhere."""

    _under_way: deque[tuple[Any, Tensor, Any]] = field(default_factory=deque)

    def send(self, what: Any, tensor: Tensor) -> None:
        """`tensor` will arrive under the name `what`."""
        if tensor.device.type == "cpu":
            self._under_way.append((what, tensor, None))
            return
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
        host.copy_(tensor, non_blocking=True)
        arrived = torch.cuda.Event() if tensor.device.type == "cuda" else None
        if arrived is not None:
            arrived.record()
        self._under_way.append((what, host, arrived))

    def arrived(self, *, wait: bool = False) -> Iterator[tuple[Any, list[float]]]:
        """What is there by now, in the order it was sent; `wait` for all."""
        while self._under_way:
            what, host, event = self._under_way[0]
            if event is not None and not event.query():
                if not wait:
                    return
                event.synchronize()
            self._under_way.popleft()
            yield what, host.reshape(-1).tolist()


@torch.no_grad()
def norms(tensors: Sequence[Tensor | None]) -> Tensor:
    """The norm of each as one vector, on the device of the first: NaN where there is none, Inf where it holds a NaN.

    >>> norms([torch.tensor([3.0, 4.0]), None, torch.tensor([float("nan")])])
    tensor([5., nan, inf])
    """
    given = [(i, _plain(t)) for i, t in enumerate(tensors) if t is not None and t.numel()]
    device = given[0][1].device if given else torch.device("cpu")
    found = torch.full((len(tensors),), math.nan, device=device)
    groups: dict[torch.device, list[tuple[int, Tensor]]] = {}
    for i, tensor in given:
        groups.setdefault(tensor.device, []).append((i, tensor))
    for group in groups.values():
        each = _each([t for _, t in group]).to(device)
        each = torch.where(torch.isnan(each), math.inf, each)
        if len(group) == len(tensors):
            return each
        found[torch.tensor([i for i, _ in group], device=device)] = each
    return found


def _each(tensors: list[Tensor]) -> Tensor:
    """One fused kernel; squares that overflow float32 are summed again in float64, where looking costs nothing."""
    found = torch.stack([norm.float() for norm in torch._foreach_norm(tensors)])
    if found.device.type == "cpu" and not bool(torch.isfinite(found).all()):
        found = torch.stack([torch.linalg.vector_norm(tensor, dtype=torch.float64).float() for tensor in tensors])
    return found


def _plain(tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided:
        tensor = tensor.coalesce().values() if tensor.is_sparse else tensor.to_dense()
    local = getattr(tensor, "to_local", None)
    tensor = local() if local is not None else tensor
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor if tensor.is_floating_point() and tensor.element_size() > 1 else tensor.float()
