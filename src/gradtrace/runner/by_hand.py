"""Which tensors does a script move by hand? Those that a backward pass came to and whose numbers changed since.

w -= lr * w.grad          counts as a change in place: the version of `w` goes up
w.data -= lr * w.grad     does not: `w.data` has a version of its own, so that the norm of `w` tells
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.monitor.statistics.norms import norms
from gradtrace.tape.private import version_of, without_modes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


class ByHand:
    """What backward passes came to, as it was at the first of them.

    >>> import torch
    >>> w, frozen = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    >>> seen = ByHand()
    >>> seen.note([w, frozen])
    >>> w.data -= 0.1
    >>> [one is w for one in seen.moved]
    [True]
    """

    def __init__(self) -> None:
        self._before: dict[int, _Before] = {}

    def note(self, leaves: Iterable[Tensor]) -> None:
        """Those of `leaves` that are new."""
        for leaf in leaves:
            if id(leaf) not in self._before:
                self._before[id(leaf)] = _Before(weakref.ref(leaf), version_of(leaf), _size_of(leaf))

    @property
    def moved(self) -> list[Tensor]:
        """Of those that live, what was written to since."""
        living = ((before.tensor(), before) for before in self._before.values())
        return [one for one, before in living if one is not None and before.is_past(one)]


@dataclass(frozen=True, slots=True)
class _Before:
    tensor: weakref.ref[Tensor]
    version: int
    size: float

    def is_past(self, now: Tensor) -> bool:
        return version_of(now) > self.version or not (math.isnan(self.size) or _size_of(now) == self.size)


def _size_of(tensor: Tensor) -> float:
    """Its norm; NaN where a tensor has no numbers, as of the meta device."""
    try:
        with without_modes():
            return float(norms([tensor.detach()])[0])
    except RuntimeError:
        return math.nan
