"""Whose is it? Of many threads and optimizers, those of the training that is watched."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from gradtrace.tape.graph import reached_leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor
    from torch.optim import Optimizer

    from gradtrace.monitor.watched import Watched


class Owner:
    """The training's thread and its optimizers; `joins` is asked whether an optimizer that is not known is one more."""

    def __init__(self, watched: Watched, joins: Callable[[Optimizer], bool]) -> None:
        self.num_steps: dict[int, int] = {}
        """By the seat of an optimizer (`monitor.seats`), of those that have stepped."""
        self.num_others = 0
        """Backward passes in other threads, and of what is not watched."""
        self._watched, self._joins = watched, joins
        self._thread: threading.Thread | None = None
        """In which the first backward pass of what is watched took place."""
        self._begun_in = threading.current_thread()
        self._foreign: set[int] = set()
        """Optimizers that hold nothing of what is watched."""

    @property
    def is_here(self) -> bool:
        """Whether this is the training's thread, as far as that is known."""
        return self._thread is None or self._thread is threading.current_thread()

    @property
    def is_surely_here(self) -> bool:
        """Whether it is, or is most likely going to be."""
        return (self._thread or self._begun_in) is threading.current_thread()

    @property
    def is_gone(self) -> bool:
        """Whether the training's thread has ended: it may go on in another."""
        return self._thread is not None and not self._thread.is_alive()

    def has(self, roots: Sequence[Tensor]) -> bool:
        """Whether a backward pass is the training's."""
        here = threading.current_thread()
        if self._thread is here:
            return True
        if (self._thread is None or self.is_gone) and self._reaches(roots):
            self._thread = here
            return True
        self.num_others += 1
        return False

    def _reaches(self, roots: Sequence[Tensor]) -> bool:
        """Of sharded parameters the leaves are others, which are gathered for the pass."""
        return self._watched.has_shards or any(map(self._watched.is_watched, reached_leaves(roots)))

    def holds(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer is watched; one that nobody has seen yet may be from now on."""
        if self.has_stepped(optimizer):
            return self.is_here
        if id(optimizer) in self._foreign or not self.is_here:
            return False
        if not self._watched.seat(optimizer):
            if not self.is_surely_here:  # a training beside ours: what it moves meanwhile must not be read from here
                return False
            if not self._joins(optimizer):
                self._foreign.add(id(optimizer))
                return False
        self.num_steps.setdefault(self.seat_of(optimizer), 0)
        return True

    @property
    def places(self) -> dict[int, int]:
        """Seats by the identity of the optimizers that are watched."""
        return self._watched.seats.places

    def has_stepped(self, optimizer: Optimizer) -> bool:
        """Whether it is watched, and has stepped before."""
        return self.places.get(id(optimizer)) in self.num_steps

    def seat_of(self, optimizer: Optimizer) -> int:
        """What its steps are counted under, and those of whoever had its seat before; a stranger's identity."""
        return self.places.get(id(optimizer), id(optimizer))

    def optimizer_at(self, seat: int | None) -> Optimizer | None:
        """Whose seat it is; None where it is nobody's."""
        optimizers = self._watched.seats.optimizers
        return optimizers[seat] if seat is not None and 0 <= seat < len(optimizers) else None

    def forget_others(self) -> None:
        """More is watched than before: what was nobody's may be ours."""
        self._foreign.clear()
