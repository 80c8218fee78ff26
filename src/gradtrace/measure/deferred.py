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
        """One flat float64 array per handle."""
        arrays: list[np.ndarray] = [np.empty(0)] * len(self._tensors)
        groups: dict[torch.device, list[int]] = {}
        for handle, tensor in enumerate(self._tensors):
            groups.setdefault(tensor.device, []).append(handle)
        for device, handles in groups.items():
            wide = torch.float32 if device.type == "mps" else torch.float64  # mps knows no float64
            joined = torch.cat([self._tensors[handle].detach().reshape(-1).to(wide) for handle in handles])
            sizes = [self._tensors[handle].numel() for handle in handles]
            values = joined.cpu().numpy().astype(np.float64)
            for handle, part in zip(handles, np.split(values, np.cumsum(sizes)[:-1]), strict=True):
                arrays[handle] = part
        self._tensors.clear()
        return arrays
