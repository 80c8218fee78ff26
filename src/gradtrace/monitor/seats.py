"""Which optimizer is which? One made anew over the same parameters, at every call or epoch, is the one before it.

An optimizer has a *seat*, its place among those that are watched, for as long as the training goes on. Without it each
new one would count as one more: a function that makes its optimizer at every call would have thousands of them.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch

from gradtrace.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch.optim import Optimizer


class Seats:
    """Of `optimizers`, which are held: no other can have the identity of one of them.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.ones(3))
    >>> first, other = torch.optim.SGD([weight]), torch.optim.Adam([weight])
    >>> seats = Seats([first, other])
    >>> anew = torch.optim.SGD([weight], lr=0.1)
    >>> seats.give(anew, held=lambda optimizer: {0}) is first, seats.places[id(anew)]
    (True, 0)
    >>> seats.give(first, held=lambda optimizer: {0}) is None  # both go on: it needs a seat of its own
    True
    """

    def __init__(self, optimizers: Iterable[Optimizer]) -> None:
        self.optimizers: list[Optimizer] = []
        self.places: dict[int, int] = {}
        """By the identity of an optimizer: its seat, an index of `optimizers`."""
        self._given: set[int] = set()
        """Seats that have changed hands."""
        self._unseated: WeakSet[Optimizer] = WeakSet()
        self.add(optimizers)

    def add(self, optimizers: Iterable[Optimizer]) -> None:
        """A seat for each that has none."""
        for one in optimizers:
            if id(one) not in self.places:
                self.places[id(one)] = len(self.optimizers)
                self.optimizers.append(one)

    def give(self, optimizer: Optimizer, held: Callable[[Optimizer], set[int | None]]) -> Optimizer | None:
        """The seat of one of its kind that holds the same, and whose it was; None: there is none.

        Whoever steps again after that is not made anew, and needs a seat of its own.
        """
        if optimizer in self._unseated:
            return None
        own = held(optimizer)
        seats = [i for i, one in enumerate(self.optimizers) if type(one) is type(optimizer) and held(one) == own]
        if not seats:
            return None
        seat = next((one for one in seats if one in self._given), seats[-1])
        before = self.optimizers[seat]
        self.optimizers[seat], self.places[id(optimizer)] = optimizer, self.places.pop(id(before))
        self._given.add(seat)
        self._unseated.add(before)
        return before


def as_optimizers(optimizers: Any) -> list[Optimizer]:
    """One or several, as they were given, out of their wrappers."""
    single = isinstance(_own(optimizers), torch.optim.Optimizer)
    alone = single or not hasattr(optimizers, "__iter__")
    found = [_own(one) for one in ([optimizers] if alone and optimizers is not None else optimizers or ())]
    for one in found:
        if not isinstance(one, torch.optim.Optimizer):
            hint = ": the loss stays in the loop that is watched" if inspect.isroutine(one) else ""
            raise InputError(f"optimizer must be a torch.optim.Optimizer, but it is {type(one).__name__}{hint}")
    return found


def _own(optimizer: Any) -> Any:
    """The optimizer inside of a wrapper that hands on to it (accelerate's, Lightning's): it alone fires hooks."""
    inner = getattr(optimizer, "optimizer", None)
    return _own(inner) if isinstance(inner, torch.optim.Optimizer) else optimizer
