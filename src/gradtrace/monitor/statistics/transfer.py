"""How do numbers come from the device to the host without waiting? From the CPU at once, else some steps late."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Arrived = list["NDArray[np.float32] | float | None"]


@dataclass(slots=True)
class Transfer:
    """Carries a few small vectors a step; what is no tensor needs no carrying.

    >>> transfer = Transfer()
    >>> transfer.send("step 3", [torch.tensor([1.0, 2.0]), None, 4.0])
    >>> list(transfer.arrived())
    [('step 3', [array([1., 2.], dtype=float32), None, 4.0])]
    """

    _under_way: deque[tuple[Any, list[Any], Tensor | None, Any]] = field(default_factory=deque)

    def send(self, what: Any, vectors: Sequence[Tensor | float | None]) -> None:
        """`vectors` (float32, a number, or None) will arrive under the name `what`."""
        away = [v for v in vectors if isinstance(v, torch.Tensor) and v.device.type != "cpu"]
        if not away:
            arrived = [v.numpy() if isinstance(v, torch.Tensor) else v for v in vectors]
            self._under_way.append((what, arrived, None, None))
            return
        device = away[0].device
        given = [v for v in vectors if isinstance(v, torch.Tensor)]
        packed = torch.cat([vector.to(device, non_blocking=True) for vector in given])
        host = torch.empty(packed.shape, dtype=packed.dtype, device="cpu", pin_memory=device.type == "cuda")
        host.copy_(packed, non_blocking=device.type == "cuda")
        landed = torch.cuda.Event() if device.type == "cuda" else None
        if landed is not None:
            landed.record(torch.cuda.current_stream(device))
        self._under_way.append((what, list(vectors), host, landed))

    def __len__(self) -> int:
        return len(self._under_way)

    def arrived(self, wait: int = 0) -> Iterator[tuple[Any, Arrived]]:
        """What is there by now, in the order it was sent; `wait` for the first so many."""
        while self._under_way:
            what, vectors, host, landed = self._under_way[0]
            if landed is not None and not landed.query():
                if wait <= 0:
                    return
                landed.synchronize()
            wait -= 1
            self._under_way.popleft()
            yield what, vectors if host is None else _split(host, vectors)


def sent(places: list[int], device: torch.device) -> Tensor:
    """Places in a vector, on their way to `device`: from memory that the system may move, the host would wait for it.

    >>> sent([2, 0], torch.device("cpu"))
    tensor([2, 0])
    """
    return torch.tensor(places, dtype=torch.int64, pin_memory=device.type == "cuda").to(device, non_blocking=True)


def _split(host: Tensor, vectors: list[Any]) -> Arrived:
    sizes = [vector.numel() for vector in vectors if isinstance(vector, torch.Tensor)]
    parts = iter(torch.split(host, sizes))
    return [next(parts).numpy() if isinstance(vector, torch.Tensor) else vector for vector in vectors]
