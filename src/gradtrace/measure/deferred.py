"""Numbers that stay on their device until the end, then cross to the host together.

Small tensors that live on between large ones that come and go keep the allocator from joining what was freed: a step
that holds thousands of them needed up to two thirds more memory. They are packed into blocks: on the CPU at once, by
NumPy, whose calls take a third of the time; elsewhere as they come, many in one call.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gradtrace.tape.private import is_view, joined

PACKED_TOGETHER = 256
"""Tensors that are packed into blocks together."""

BLOCK_SIZE = 2**16
"""Numbers in a block on the host."""

Key = tuple[torch.device, torch.dtype]


class Deferred:
    """A list of small tensors; `fetch` brings all of them to the host with one transfer per device, once.

    >>> deferred = Deferred()
    >>> handles = [deferred.put(torch.tensor(2.0)), *deferred.put_rows(torch.arange(4).view(2, 2))]
    >>> arrays = deferred.fetch()
    >>> [arrays[handle].tolist() for handle in handles]
    [[2.0], [0, 1], [2, 3]]
    """

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []
        """By handle; empty while the numbers are on another device."""
        self._room: dict[np.dtype, tuple[np.ndarray, int]] = {}
        """On the host, by dtype: the last block, and how much of it is taken."""
        self._loose: list[tuple[int, Tensor]] = []
        self._blocks: dict[Key, list[Tensor]] = {}
        self._packed: dict[Key, list[tuple[int, int]]] = {}  # (handle, number of elements), in the order of the blocks

    def put(self, tensor: Tensor, *, borrowed: bool = False) -> int:
        """Keep a reduced tensor; returns the handle under which `fetch` gives its values.

        `borrowed`: its memory is somebody else's, who may write to it.
        """
        if is_host(tensor):
            return self.keep(_readable(tensor).numpy(force=True))
        self._loose.append((len(self._arrays), tensor.clone() if borrowed else tensor))
        self._arrays.append(_NOTHING)
        if len(self._loose) == PACKED_TOGETHER:
            self._pack()
        return len(self._arrays) - 1

    def keep(self, values: np.ndarray) -> int:
        """As `put`: copies what is on the host."""
        size = values.size
        block, taken = self._room.get(values.dtype, (_NOTHING, 0))
        if taken + size > len(block):
            block, taken = np.empty(max(size, BLOCK_SIZE), values.dtype), 0
        place = block[taken : taken + size]
        place[:] = values if values.ndim == 1 else values.reshape(-1)
        self._room[values.dtype] = block, taken + size
        self._arrays.append(place)
        return len(self._arrays) - 1

    def put_rows(self, rows: Tensor) -> list[int]:
        """Keep what was reduced for many at once: a handle for each entry of the first axis."""
        first = len(self._arrays)
        handles = list(range(first, first + len(rows)))
        if is_host(rows):
            whole = np.array(_readable(rows).numpy(force=True)).reshape(len(rows), -1)
            self._arrays.extend(whole)
            return handles
        self._pack()
        key = (rows.device, rows.dtype)
        self._arrays.extend(_NOTHING for _ in handles)
        size = rows.numel() // max(len(rows), 1)
        self._packed.setdefault(key, []).extend((handle, size) for handle in handles)
        self._blocks.setdefault(key, []).append(rows.reshape(-1).clone() if is_view(rows) else rows.reshape(-1))
        return handles

    def fetch(self) -> list[np.ndarray]:
        """One flat array per handle, in the tensor's own dtype (half formats as float32, booleans as integers)."""
        self._pack()
        for device in dict.fromkeys(device for device, _ in self._blocks):
            exact = {key: _readable(torch.cat(blocks)) for key, blocks in self._blocks.items() if key[0] == device}
            # widest first, so that every part starts where its dtype may: all parts cross as one block of bytes
            order = sorted(exact, key=lambda key: -exact[key].element_size())
            block = torch.cat([exact[key].view(torch.uint8) for key in order]).cpu().numpy()
            start = 0
            for key in order:
                stop = start + exact[key].nbytes
                values = block[start:stop].view(str(exact[key].dtype).removeprefix("torch."))
                end = 0
                for handle, size in self._packed[key]:
                    self._arrays[handle] = values[end : end + size]
                    end += size
                start = stop
        return self._arrays

    def _pack(self) -> None:
        groups: dict[Key, list[Tensor]] = {}
        for handle, tensor in self._loose:
            key = (tensor.device, tensor.dtype)
            if key not in groups:
                groups[key] = []
                self._packed.setdefault(key, [])
            groups[key].append(tensor)
            self._packed[key].append((handle, tensor.numel()))
        for key, tensors in groups.items():
            self._blocks.setdefault(key, []).append(joined(tensors))
        self._loose.clear()


_NOTHING = np.empty(0)


def is_host(tensor: Tensor) -> bool:
    """Whether it lies on the host; of a subclass (a sharded tensor) torch alone knows what it holds."""
    return tensor.is_cpu and type(tensor) is Tensor


def on_host(tensor: Tensor) -> bool:
    """Whether NumPy reads its memory as it is."""
    return tensor.dtype in _EXACT and is_host(tensor)


def _readable(tensor: Tensor) -> Tensor:
    """The tensor in a dtype that NumPy knows and that holds every value of it."""
    if tensor.dtype in _EXACT:
        return tensor
    return tensor.to(torch.int64) if tensor.dtype is torch.bool else tensor.float()


_EXACT = {torch.float32, torch.float64, torch.int64, torch.int32}
