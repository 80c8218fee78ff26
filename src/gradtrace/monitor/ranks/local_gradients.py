"""How large is this rank's own gradient? DistributedDataParallel averages it with the others' within the backward pass.

A hook on a parameter sees what was accumulated here, before the bucket that it belongs to is reduced. Hooks are there
from the beginning of a step that is measured to its optimizer.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import torch

from gradtrace.distributed.report.fields import NUM_LAYERS
from gradtrace.monitor.statistics.norms import norms
from gradtrace.monitor.statistics.transfer import sent
from gradtrace.tape.private import anything_compiled

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gradtrace.monitor.ranks.data_parallel import DataParallel

MOST_HOOKED = NUM_LAYERS
"""Parameters, spread evenly: a rank that stands apart does so in all of them, and a hook is a microsecond or ten."""


class LocalGradients:
    """Of the watched models; `is_averaged_within` tells whether there is anything to listen to."""

    def __init__(self, data_parallel: DataParallel) -> None:
        self._data_parallel = data_parallel
        self._hooked = spread_evenly(data_parallel.parameters())
        self._norms: dict[int, Tensor] = {}
        self._hooks: list[Any] = []

    @property
    def is_averaged_within(self) -> bool:
        """Whether gradients are other ranks' as well when a backward pass is over."""
        return bool(self._hooked)

    def listen(self) -> None:
        """Until `stop`."""
        self._norms = {}
        if self._data_parallel.look():
            self._hooked = spread_evenly(self._data_parallel.parameters())
        if not self._hooks and not anything_compiled():  # which guards on hooks
            for i, parameter in enumerate(self._hooked):
                self._hooks.append(parameter.register_post_accumulate_grad_hook(self._hook(i)))

    def stop(self) -> None:
        """Take the hooks away; more than once does no harm."""
        while self._hooks:
            self._hooks.pop().remove()

    @property
    def hooked(self) -> list[nn.Parameter]:
        """That are listened to."""
        return self._hooked

    def norms(self, scale: Tensor | None) -> Tensor | None:
        """[1 + MOST_HOOKED]: of the latest pass, unscaled, all together and then each; None: nothing was heard."""
        if not self._norms:
            return None
        device = next(iter(self._norms.values())).device
        each = torch.full((MOST_HOOKED,), math.nan, dtype=torch.float32, device=device)
        places = sent(list(self._norms), device)
        each[places] = torch.stack([one.to(device) for one in self._norms.values()])
        whole = torch.cat([each[places].norm().reshape(1), each])
        return whole if scale is None else whole / scale.to(device).reshape(1)

    def _hook(self, i: int) -> Any:
        found = self._norms  # of this step: no cycle through the parameter

        @torch.no_grad()
        def note(parameter: Tensor) -> None:
            with contextlib.suppress(Exception):  # within the user's backward pass: better nothing is known
                found[i] = norms([parameter.grad])[0]

        return note


def spread_evenly(parameters: list[nn.Parameter], most: int = MOST_HOOKED) -> list[nn.Parameter]:
    """The first and the last among them.

    >>> spread_evenly(list(range(100)), 4), spread_evenly([1, 2], 4)
    ([0, 33, 66, 99], [1, 2])
    """
    num = len(parameters)
    return parameters if num <= most else [parameters[round(i * (num - 1) / (most - 1))] for i in range(most)]
