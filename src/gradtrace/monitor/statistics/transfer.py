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

Cargo = list["NDArray[np.float32] | None"]


@dataclass(slots=True)
class Ferry:
    """Carries a few small vectors a step.

    >>> ferry = Ferry()
    >>> ferry.send("step 3", [torch.tensor([1.0, 2.0]), None])
    >>> list(ferry.arrived())
    [('step 3', [array([1., 2.], dtype=float32), None])]
    """

    _under_way: deque[tuple[Any, list[int | None], Tensor | Cargo, Any]] = field(default_factory=deque)

    def send(self, what: Any, vectors: Sequence[Tensor | None]) -> None:
        """`vectors` (float32, or None) will arrive under the name `what`."""
        given = [vector for vector in vectors if vector is not None]
        if all(vector.device.type == "cpu" for vector in given):
            self._under_way.append((what, [], [v if v is None else v.numpy() for v in vectors], None))
            return
        device = next(vector.device for vector in given if vector.device.type != "cpu")
        packed = torch.cat([vector.to(device, non_blocking=True) for vector in given])
        host = torch.empty(packed.shape, dtype=packed.dtype, device="cpu", pin_memory=device.type == "cuda")
        host.copy_(packed, non_blocking=device.type == "cuda")
        landed = torch.cuda.Event() if device.type == "cuda" else None
        if landed is not None:
            landed.record(torch.cuda.current_stream(device))
        sizes = [None if vector is None else vector.numel() for vector in vectors]
        self._under_way.append((what, sizes, host, landed))

    def __len__(self) -> int:
        return len(self._under_way)

    def arrived(self, wait: int = 0) -> Iterator[tuple[Any, Cargo]]:
        """What is there by now, in the order it was sent; `wait` for the first so many."""
        while self._under_way:
            what, sizes, host, landed = self._under_way[0]
            if landed is not None and not landed.query():
                if wait <= 0:
                    return
                landed.synchronize()
            wait -= 1
            self._under_way.popleft()
            yield what, host if isinstance(host, list) else _split(host, sizes)


def _split(host: Tensor, sizes: list[int | None]) -> Cargo:
    parts = iter(torch.split(host, [size for size in sizes if size is not None]))
    return [None if size is None else next(parts).numpy() for size in sizes]
