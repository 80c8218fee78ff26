"""What state lies behind a model, its loss function and a batch, and how does it come back as it was?

Code may keep state anywhere: in plain objects, in containers of any depth, in closures and globals, in tensors and
arrays written to in place, in generators of random numbers. A snapshot goes through all that is reachable from its
roots, the nearest first, and keeps each state (`keepers/`) within `Bounds`. What it could not keep it says.

What belongs to others as well is left alone: optimizers, loaders, files, threads and what is shared between them, the
insides of the standard library. Weights are not copied: `.data` put elsewhere comes back, a write in place is said.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradtrace.measure.keepers.found import ATOMIC, NotKeptError
from gradtrace.measure.keepers.table import keeper_of, weight_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Self

    from gradtrace.measure.keepers.found import Keeper, PutBack

Place = tuple[Any, str]
"""(place of what holds it, or None; its name there)."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept, modules and their buffers apart: these are always kept, at a microsecond or two a module."""

    num_objects: int = 50_000
    """Objects and entries of containers that are looked at: about 0.1 s."""
    num_bytes: int = 2**27
    """Of tensors and arrays that are copied: 128 MiB."""


BOUNDS = Bounds()


class Snapshot:
    """The state of everything that is reachable from some roots, at the time it was taken.

    >>> import types
    >>> counter, log = types.SimpleNamespace(seen=0), [{"rows": []}]
    >>> snapshot = Snapshot.of({"counter": counter, "log": log})
    >>> counter.seen += 1; log[0]["rows"].append(3); log.append("more")
    >>> snapshot.restore()
    ()
    >>> counter.seen, log
    (0, [{'rows': []}])
    """

    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        self._bounds = bounds
        self._num_objects = 0
        self._num_bytes = 0
        self._seen: dict[int, Any] = {}
        self._keepers: dict[type, Keeper | None] = {}
        self._kept: list[tuple[PutBack, Place]] = []
        self._unkept: list[str] = []
        self._first_beyond: Place | None = None
        self._num_beyond = 0

    @classmethod
    def of(cls, roots: Mapping[str, Any], bounds: Bounds = BOUNDS) -> Self:
        """Keep the state of all that is reachable from `roots`, which are named for what is told of them."""
        snapshot = cls(bounds)
        snapshot._walk(roots)
        return snapshot

    def restore(self) -> tuple[str, ...]:
        """Put everything back, which can be done more than once; returns what was not kept, a sentence each."""
        told = list(self._unkept)
        if self._num_beyond:
            more = f" and {self._num_beyond - 1} more" if self._num_beyond > 1 else ""
            told.append(f"not kept: {_path(self._first_beyond)}{more}, there is too much to look into")
        for put_back, place in self._kept:
            try:
                why = put_back()
            except Exception as error:  # of the user's classes: the others still come back
                why = f"{type(error).__name__}: {error}"
            if why:
                told.append(f"not put back: {_path(place)}, {why}")
        return tuple(told)

    def take(self, num_bytes: int) -> bool:
        """Whether a copy of that size is still within the bounds; if so, it counts."""
        if self._num_bytes + num_bytes > self._bounds.num_bytes:
            return False
        self._num_bytes += num_bytes
        return True

    def _walk(self, roots: Mapping[str, Any]) -> None:
        seen, keepers = self._seen, self._keepers
        queue: deque[tuple[Any, Place]] = deque((value, (None, name)) for name, value in roots.items())
        while queue:
            value, place = queue.popleft()
            kind = type(value)
            if kind in ATOMIC or id(value) in seen:
                continue
            seen[id(value)] = value
            if kind not in keepers:
                keepers[kind] = keeper_of(kind)
            keeper = keepers[kind]
            if keeper is not None:
                self._keep(keeper, value, place, queue.append)

    def _keep(self, keeper: Keeper, value: Any, place: Place, find: Callable[[tuple[Any, Place]], None]) -> None:
        try:
            weight = weight_of(value)
            if weight and self._num_objects + weight > self._bounds.num_objects:
                self._first_beyond = self._first_beyond or place
                self._num_beyond += 1
                return
            self._num_objects += weight
            found = keeper(value, self)
        except NotKeptError as why:
            self._unkept.append(f"not kept: {_path(place)}, {why}")
            return
        except Exception as error:  # of the user's classes
            self._unkept.append(f"not kept: {_path(place)}, {type(error).__name__}: {error}")
            return
        self._kept += [(put_back, (place, name) if name else place) for put_back, name in found.put_back]
        for name, inner in found.inside:
            if type(inner) not in ATOMIC:
                find((inner, (place, name)))


def _path(place: Place | None) -> str:
    """``model.noise.g``, from the root on."""
    names: list[str] = []
    while place is not None:
        names.append(place[1])
        place = place[0]
    return ".".join(reversed(names))
