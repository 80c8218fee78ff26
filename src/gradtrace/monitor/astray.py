"""Do the backward passes go to others than those that the optimizer steps: to a copy that took their place?

``model = copy.deepcopy(best)`` leaves the optimizer with the parameters from before. A step is astray if

- its backward pass reaches parameters that are not watched, and none that is,
- what the optimizer holds got nothing by it: no gradient, zeros, or the very numbers of the look before,
- and those that were reached have the shapes of what it holds, and are as they were at the look before: nobody moves
  them.

Looks come in pairs, at the passes 1 and 2, 2 and 3, 4 and 5, 8 and 9 ... of those that may be others'.
"""

from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from gradtrace.monitor.statistics.norms import norms
from gradtrace.records.run import EventKind
from gradtrace.tape.graph import reached_leaves

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torch.optim import Optimizer

    from gradtrace.monitor.recording.recording import Recording
    from gradtrace.monitor.watched import Watched


@dataclass(frozen=True, slots=True)
class _Look:
    reached: list[weakref.ref[nn.Parameter]]
    sizes: Tensor
    """Norms of what was reached."""
    step: int
    is_empty: bool
    """Whether what the optimizer holds, of the same shapes, got nothing."""


class Astray:
    """Tells the recording of each step that is, and of the first one after it that is not."""

    def __init__(self, watched: Watched, recording: Recording) -> None:
        self._watched, self._recording = watched, recording
        self._num = 0
        """Passes that may be others'."""
        self._reached: list[nn.Parameter] | None = None
        """By the pass at hand, where it was looked at and reached nothing that is watched."""
        self._before: _Look | None = None
        """The one before."""
        self._gradients: dict[int, Tensor] = {}
        """By the identity of an optimizer: norms of the gradients that it stepped at the look before."""
        self._arrivals: list[tuple[int, int]] | None = None
        """As the latest step saw them."""
        self._is_odd = False
        """Whether that step had nothing new."""
        self._told: str | None = None
        """The message of the latest event, while it holds."""

    def before_backward(self, roots: Sequence[Tensor], *, is_known: bool) -> None:
        """A pass begins; `is_known`: something that is watched was called before it."""
        self._reached = None
        if (is_known and not self._is_odd) or self._watched.has_shards:
            return
        self._num += 1
        if not (_is_power_of_two(self._num) or _is_power_of_two(self._num - 1)):
            return
        leaves = reached_leaves(roots)
        if not any(map(self._watched.is_watched, leaves)):
            self._reached = sorted((leaf for leaf in leaves if isinstance(leaf, nn.Parameter)), key=id)

    def before_step(self, optimizer: Optimizer, step: int) -> None:
        """It steps the gradients that are there now."""
        arrivals = self._watched.arrivals()
        self._is_odd = arrivals == self._arrivals or all(version < 0 for _, version in arrivals)
        self._arrivals = arrivals
        reached, self._reached = self._reached, None
        if self._told is not None and not self._is_odd and reached is None and self._num_new(optimizer):
            self._returned(step)
        if reached:
            self._look(optimizer, reached, step)

    def _look(self, optimizer: Optimizer, reached: list[nn.Parameter], step: int) -> None:
        held = self._watched.held_by(optimizer)
        shapes = Counter(self._watched.parameters[i].shape for i in held)
        is_empty = not self._num_new(optimizer) and not Counter(one.shape for one in reached) - shapes
        sizes = norms([parameter.detach() for parameter in reached])
        before, self._before = self._before, _Look([weakref.ref(one) for one in reached], sizes, step, is_empty)
        if before is None or [id(one()) for one in before.reached] != [*map(id, reached)]:
            return
        if not torch.equal(before.sizes, sizes):
            self._returned(step)
        elif is_empty:
            is_first, self._told = self._told is None, self._watched.names[held[0]]
            onset = before.step if is_first and before.is_empty else step
            self._recording.event(onset, EventKind.ASTRAY, self._told)

    def _returned(self, step: int) -> None:
        if self._told is not None:
            self._recording.event(step, EventKind.RETURNED, self._told)
            self._told = None

    def _num_new(self, optimizer: Optimizer) -> int:
        """Of its gradients, how many are neither none nor zero, nor what they were at the look before."""
        gradients = [self._watched.parameters[i].grad for i in self._watched.held_by(optimizer)]
        if all(gradient is None for gradient in gradients):
            return 0
        now = norms(gradients)
        before = self._gradients.get(id(optimizer))
        self._gradients[id(optimizer)] = now
        is_new = now > 0.0
        if before is not None and len(before) == len(now):
            is_new &= now != before
        return int(is_new.sum())


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0
