"""Generators of random numbers, and iterators that can be wound back; of those that cannot it is said."""

from __future__ import annotations

import itertools
import random
from functools import partial
from typing import TYPE_CHECKING, Any

from gradtrace.measure.keepers.found import Budget, Found, NotKeptError
from gradtrace.measure.keepers.objects import keep_object

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch


def keep_state(generator: torch.Generator | np.random.RandomState, _: Budget) -> Found:
    """Of those with `get_state`."""
    return Found([(partial(_call, generator.set_state, generator.get_state()), "")])


def keep_bits(generator: Any, _: Budget) -> Found:
    """NumPy's: the state lies in the bit generator."""
    bits = getattr(generator, "bit_generator", generator)
    return Found([(partial(_call, setattr, bits, "state", bits.state), "")])


def keep_random(generator: random.Random, budget: Budget) -> Found:
    """Python's; the system's own source has no state."""
    if isinstance(generator, random.SystemRandom):
        return Found()
    own = keep_object(generator, budget)
    return Found([(partial(_call, generator.setstate, generator.getstate()), ""), *own.put_back], own.inside)


def _call(function: Callable[..., object], *args: Any) -> None:
    function(*args)


WINDABLE = (
    *(type(iterator) for iterator in (iter([]), iter(()), iter(range(0)), iter(range(2**64)), iter(""), iter(b""))),
    type(reversed([])),
)


def keep_iterator(iterator: Any, _: Budget) -> Found:
    """How far it has come."""
    before = _where(iterator)
    words = f"a {type(iterator).__name__.replace('_', ' ')} that cannot be wound back"
    if before is None:
        raise NotKeptError(f"{words} should the pass draw from it")

    def put_back() -> str | None:
        if _where(iterator) != before and type(iterator) in WINDABLE and isinstance(before[-1], int):
            iterator.__setstate__(before[-1])
        return None if _where(iterator) == before else words

    return Found([(put_back, "")])


def _where(iterator: Any) -> tuple[Any, ...] | None:
    """What it goes through, by identity, and how far it has come; None where it does not tell."""
    if type(iterator) in WINDABLE:
        _, (through, *_), *place = iterator.__reduce__()
        return through if isinstance(through, range) else id(through), place[0] if place else None
    return (repr(iterator),) if isinstance(iterator, itertools.count) else None
