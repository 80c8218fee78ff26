"""To which parameters that are not watched do the training's backward passes bring a gradient?

A walk through the tape at steps whose number is a power of two finds them; whether they ought to learn is asked of
whoever knows all that there is, after a few steps, in which every optimizer has had its turn.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from torch import nn

from gradtrace.tape.graph import reached_leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from gradtrace.monitor.watched import Watched

MOST_PASSES = 8
"""Backward passes of one step that are looked at."""

ASKED_AT = 8
"""The step at which it is asked: what a script's functions hold is gone by its end."""


class Strangers:
    """Of one training."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._step, self._num = -1, 0
        self._found: dict[int, weakref.ref[nn.Parameter]] = {}
        self.ask: Callable[[Sequence[nn.Parameter]], None] | None = None
        """Is told of those that there are."""

    def before_backward(self, step: int, roots: Sequence[Tensor]) -> None:
        """The tape is whole; it is walked through while somebody is there who wants to be told."""
        if self.ask is None:
            return
        self._num = self._num + 1 if step == self._step else 1
        self._step = step
        if step & (step - 1) or self._num > MOST_PASSES or self._watched.has_shards:
            return
        for leaf in reached_leaves(roots):
            if isinstance(leaf, nn.Parameter) and not self._watched.is_watched(leaf):
                self._found[id(leaf)] = weakref.ref(leaf)

    @property
    def is_due(self) -> bool:
        """Whether there are any after a few steps, and somebody wants to be told."""
        return self._step >= ASKED_AT and self.ask is not None and bool(self.found)

    def tell(self) -> None:
        """Once: whoever is told may go through all objects there are."""
        ask, self.ask = self.ask, None
        if ask is not None:
            ask(self.found)

    @property
    def found(self) -> list[nn.Parameter]:
        """Those that there still are, and that have not been watched since."""
        living = [one() for one in self._found.values()]
        return [one for one in living if one is not None and not self._watched.is_watched(one)]
