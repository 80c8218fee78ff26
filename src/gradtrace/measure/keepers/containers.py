"""Dictionaries, lists, sets: entries are compared by identity, and a container that has not changed is left alone.

An iterator over one goes on then. The methods of the built-in class are called, past those of a subclass.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict, deque
from operator import is_
from typing import Any

from gradtrace.measure.keepers.found import ATOMIC, Budget, Found, NotKeptError
from gradtrace.measure.keepers.objects import keep_object


class Entries:
    """The entries of a dictionary in their order; called, it puts them back."""

    __slots__ = ("_base", "_before", "_now")

    def __init__(self, now: Any) -> None:
        self._base: Any = OrderedDict if isinstance(now, OrderedDict) else dict
        self._now, self._before = now, list(self._base.items(now))

    def __call__(self) -> None:
        """Put them back."""
        now, base, before = self._now, self._base, self._before
        if base.__len__(now) == len(before) and all(
            key is was and value is of for (key, value), (was, of) in zip(base.items(now), before, strict=True)
        ):
            return
        base.clear(now)
        for key, value in before:
            base.__setitem__(now, key, value)


def keep_dict(values: Any, budget: Budget) -> Found:
    """Its entries, in their order."""
    base: Any = OrderedDict if isinstance(values, OrderedDict) else dict
    own = _own(values, budget)
    inside = [(str(key), value) for key, value in base.items(values) if type(value) not in ATOMIC]
    return Found([(Entries(values), ""), *own.put_back], [*inside, *own.inside])


def keep_entries(values: Any, budget: Budget) -> Found:
    """Of a list, a deque or a set."""
    base: Any = next(base for base in (list, deque, set) if isinstance(values, base))
    before = list(base.__iter__(values))

    def put_back() -> None:
        if len(before) == base.__len__(values) and all(map(is_, base.__iter__(values), before)):
            return
        base.clear(values)
        (base.update if base is set else base.extend)(values, before)

    own = _own(values, budget)
    return Found([(put_back, ""), *own.put_back], [*_inside(before), *own.inside])


def keep_fixed(values: Any, budget: Budget) -> Found:
    """A tuple has no state, what it holds may have."""
    own = _own(values, budget)
    return Found(own.put_back, [*_inside(values), *own.inside])


def keep_bytes(values: Any, budget: Budget) -> Found:
    """A bytearray, or an array of numbers."""
    content = bytes(values)
    if not budget.take(len(content)):
        raise NotKeptError(f"{len(content) / 2**20:.0f} MiB are more than is copied")

    def put_back() -> None:
        if bytes(values) != content:
            values[:] = array(values.typecode, content) if isinstance(values, array) else content

    return Found([(put_back, "")])


def _inside(values: Any) -> list[tuple[str, Any]]:
    return [(str(i), value) for i, value in enumerate(values) if type(value) not in ATOMIC]


def _own(value: Any, budget: Budget) -> Found:
    """What a subclass adds to a container."""
    return Found() if type(value).__module__ in ("builtins", "collections") else keep_object(value, budget)
