"""Which DistributedDataParallel holds what is watched? Scripts watch the wrapper or what is in it, before or after."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from gradtrace.monitor.watched import Watched

LOOKS = 2
"""Each goes through all objects there are: when the watch begins, and at its second step, if none was there yet."""


class DataParallel:
    """The wrappers of one watch."""

    def __init__(self, watched: Watched) -> None:
        self._watched, self._num_looks = watched, 0
        self.wrappers: tuple[nn.parallel.DistributedDataParallel, ...] = ()
        self.look()

    def look(self) -> bool:
        """Whether any is found that was not known."""
        if self.wrappers or self._num_looks >= LOOKS:
            return False
        self._num_looks += 1
        trained = {id(parameter) for parameter in self._watched.parameters}
        kind = nn.parallel.DistributedDataParallel
        found = [one for one in gc.get_objects() if issubclass(type(one), kind) and "_modules" in vars(one)]
        self.wrappers = tuple(one for one in found if any(id(p) in trained for p in one.parameters()))
        return bool(self.wrappers)

    def parameters(self) -> list[nn.Parameter]:
        """Whose gradients are averaged within the backward pass."""
        return [parameter for one in self.wrappers for parameter in one.parameters() if parameter.requires_grad]

    def sends_buffers_of(self, module: nn.Module) -> bool:
        """Rank 0's, at the beginning of every forward pass."""
        return any(part is module for one in self.wrappers if one.broadcast_buffers for part in one.modules())
