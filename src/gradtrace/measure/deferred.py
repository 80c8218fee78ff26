"""Numbers that stay on their device until the end, then cross to the host together.

Small tensors that live on between large ones that come and go keep the allocator from joining what was freed: a step
that holds thousands of them needed up to two thirds more memory. They are packed into blocks as they come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from gradtrace.tape.private import is_view, joined

if TYPE_CHECKING:
    from torch import Tensor

PACKED_TOGETHER = 256
"""Tensors that are packed into blocks together."""

Key = tuple[torch.device, torch.dtype]


class Deferred:
    """A list of small tensors; `fetch` brings all of them to the host with one transfer per device, once."""

    def __init__(self) -> None:
        self._loose: list[Tensor] = []
        self._blocks: dict[Key, list[Tensor]] = {}
        self._packed: dict[Key, list[tuple[int, int]]] = {}  # (handle, number of elements), in the order of the blocks
        self._count = 0

    def put(self, tensor: Tensor) -> int:
        """Keep a reduced tensor; returns the handle under which `fetch` gives its values."""
        handle = self._count
        self._count += 1
        self._loose.append(tensor)
        if len(self._loose) == PACKED_TOGETHER:
            self._pack()
        return handle

    def put_rows(self, rows: Tensor) -> list[int]:
        """Keep what was reduced for many at once: a handle for each entry of the first axis."""
        handles = list(range(self._count, self._count + len(rows)))
        self._pack()
        key = (rows.device, rows.dtype)
        self._count += len(rows)
        size = rows.numel() // max(len(rows), 1)
        self._packed.setdefault(key, []).extend((handle, size) for handle in handles)
        self._blocks.setdefault(key, []).append(rows.reshape(-1).clone() if is_view(rows) else rows.reshape(-1))
        return handles

    def fetch(self) -> list[np.ndarray]:
        """One flat array per handle, in the tensor's own dtype (half formats as float32, booleans as integers)."""
        self._pack()
        arrays: list[np.ndarray] = [np.empty(0)] * self._count
        for device in dict.fromkeys(device for device, _ in self._blocks):
            exact = {key: _exact(torch.cat(blocks)) for key, blocks in self._blocks.items() if key[0] == device}
            # widest first, so that every part starts where its dtype may: all parts cross as one block of bytes
            order = sorted(exact, key=lambda key: -exact[key].element_size())
            block = torch.cat([exact[key].view(torch.uint8) for key in order]).cpu().numpy()
            start = 0
            for key in order:
                stop = start + exact[key].nbytes
                values = block[start:stop].view(str(exact[key].dtype).removeprefix("torch."))
                end = 0
                for handle, size in self._packed[key]:
                    arrays[handle] = values[end : end + size]
                    end += size
                start = stop
        return arrays

    def _pack(self) -> None:
        groups: dict[Key, list[Tensor]] = {}
        for handle, tensor in enumerate(self._loose, self._count - len(self._loose)):
            key = (tensor.device, tensor.dtype)
            if key not in groups:
                groups[key] = []
                self._packed.setdefault(key, [])
            groups[key].append(tensor)
            self._packed[key].append((handle, tensor.numel()))
        for key, tensors in groups.items():
            self._blocks.setdefault(key, []).append(joined(tensors))
        self._loose.clear()


def _exact(tensor: Tensor) -> Tensor:
    """The tensor in a dtype that NumPy knows and that holds every value of it."""
    if tensor.dtype == torch.bool:
        return tensor.to(torch.int64)
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor
