"""By how much does an optimizer's step move the weights? Copies from before it, into memory that is allocated once.

Fresh memory for a copy would cost more than the copy: the system hands it out page by page.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from gradtrace.monitor.statistics.norms import norms, plain
from gradtrace.monitor.statistics.transfer import sent
from gradtrace.tape.private import foreach

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from gradtrace.monitor.watched import Watched

MOST_COPIED_FRAC, MIN_COPIED_BYTES = 1 / 16, 4 * 2**20
"""Of the weights, that are copied: of models beyond the smaller number a part each time, in turn."""

CACHED_BYTES = 2**19
"""Half of a usual second-level cache."""


class Updates:
    """`before` an optimizer's step, `after` it."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        whole = sum(parameter.nbytes for parameter in watched.parameters)
        self._most_bytes = max(MIN_COPIED_BYTES, int(MOST_COPIED_FRAC * whole))
        self._memory: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self._columns: list[int] = []
        self._copies: list[Tensor] = []

    @torch.no_grad()
    def before(self) -> Tensor:
        """Copy the weights whose turn it is; returns the norms of all, NaN for the others."""
        self._columns = self._watched.next_columns(self._most_bytes)
        weights = self._weights()
        self._copies = self._room_for(weights)
        return self._norms_of(foreach("copy_"), weights)

    @torch.no_grad()
    def after(self) -> Tensor:
        """The norms of what has changed since; NaN for weights that were not copied."""
        moved = self._norms_of(foreach("sub_"), self._weights())
        self._copies = []
        return moved

    @property
    def is_holding(self) -> bool:
        """Whether copies wait for the optimizer."""
        return bool(self._copies)

    def _norms_of(self, change: Callable[[list[Tensor], list[Tensor]], Any], weights: list[Tensor]) -> Tensor:
        """Of the copies after `change`, a few at a time: what was just written is still in the processor's cache."""
        found, start, size = [], 0, 0
        for i, copy in enumerate(self._copies):
            size += copy.nbytes
            if size >= CACHED_BYTES or i == len(self._copies) - 1:
                some = self._copies[start : i + 1]
                change(some, weights[start : i + 1])
                found.append(norms(some))
                start, size = i + 1, 0
        return self._spread(torch.cat([values.to(found[0].device) for values in found]) if found else norms([]))

    def _weights(self) -> list[Tensor]:
        return [plain(self._watched.parameters[i].detach()) for i in self._columns]

    def _room_for(self, weights: list[Tensor]) -> list[Tensor]:
        sizes: dict[tuple[torch.device, torch.dtype], int] = {}
        places = []
        for weight in weights:
            key = weight.device, weight.dtype
            start = sizes.get(key, 0)
            sizes[key] = start + weight.numel()
            places.append((key, start))
        for (device, dtype), size in sizes.items():
            known = self._memory.get((device, dtype))
            if known is None or known.numel() < size:
                self._memory[device, dtype] = torch.empty(size, dtype=dtype, device=device)
        return [
            self._memory[key][start : start + weight.numel()].view(weight.shape)
            for weight, (key, start) in zip(weights, places, strict=True)
        ]

    def _spread(self, values: Tensor) -> Tensor:
        """From the copied columns to all."""
        num = len(self._watched.parameters)
        if len(self._columns) == num:
            return values
        whole = torch.full((num,), math.nan, dtype=torch.float32, device=values.device)
        return whole.index_copy_(0, sent(self._columns, values.device), values)
