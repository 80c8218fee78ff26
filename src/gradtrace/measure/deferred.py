"""Numbers that stay on their device until the end, then cross to the host together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor


class Deferred:
    """A list of small tensors; `fetch` brings all of them to the host with one transfer per device."""

    def __init__(self) -> None:
        self._tensors: list[Tensor] = []

    def put(self, tensor: Tensor) -> int:
        """Keep a reduced tensor; returns the handle under which `fetch` gives its values."""
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def fetch(self) -> list[np.ndarray]:
        """One flat array per handle, in the tensor's own dtype (half formats as float32, booleans as integers)."""
        arrays: list[np.ndarray] = [np.empty(0)] * len(self._tensors)
        groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for handle, tensor in enumerate(self._tensors):
            groups.setdefault((tensor.device, tensor.dtype), []).append(handle)
        for device in dict.fromkeys(device for device, _ in groups):
            order = [key for key in groups if key[0] == device]
            joined = {key: torch.cat([self._tensors[handle].reshape(-1) for handle in groups[key]]) for key in order}
            wide = {key: _exact(tensor) for key, tensor in joined.items()}
            # widest first, so that every part starts where its dtype may: all parts cross as one block of bytes
            order.sort(key=lambda key: -wide[key].element_size())
            block = torch.cat([wide[key].view(torch.uint8) for key in order]).cpu().numpy()
            start = 0
            for key in order:
                stop = start + wide[key].numel() * wide[key].element_size()
                values = block[start:stop].view(str(wide[key].dtype).removeprefix("torch."))
                sizes = [self._tensors[handle].numel() for handle in groups[key]]
                for handle, end, size in zip(groups[key], np.cumsum(sizes).tolist(), sizes, strict=True):
                    arrays[handle] = values[end - size : end]
                start = stop
        self._tensors.clear()
        return arrays


def _exact(tensor: Tensor) -> Tensor:
    """The tensor in a dtype that NumPy knows and that holds every value of it."""
    if tensor.dtype == torch.bool:
        return tensor.to(torch.int64)
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor
