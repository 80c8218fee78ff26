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
def norms(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    """The norm of each as one vector per device, in the order of `tensors`; NaN where there is none.

    A norm that over- or underflows float32's squares is not told from Inf or 0 here; a whole trace tells it.
    """
    found = [_plain(t) for t in tensors if t is not None and t.numel()]
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in found:
        by_device.setdefault(tensor.device, []).append(tensor)
    made: dict[torch.device, Iterator[Tensor]] = {
        device: iter(torch._foreach_norm(group)) for device, group in by_device.items()
    }
    device = next(iter(by_device), torch.device("cpu"))
    absent = torch.full((), math.nan, device=device)
    each = [next(made[t.device]).to(device, torch.float32) if t is not None and t.numel() else absent for t in tensors]
    return each


def _plain(tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided:
        tensor = tensor.coalesce().values() if tensor.is_sparse else tensor.to_dense()
    local = getattr(tensor, "to_local", None)
    tensor = local() if local is not None else tensor
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor if tensor.is_floating_point() and tensor.element_size() > 1 else tensor.float()
