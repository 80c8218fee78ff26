"""How does a trainer that tells nobody of an exception end by one? What its method raises is seen on the way out.

The method of the trainer's class is stood in for while anybody follows trainings of that class: it is called as ever,
and what it raises it raises, after the watches of this very trainer are closed. The last follower to go takes the
stand-in away. A subclass that trains in a method of its own is not seen; its watch ends with the next training, by
`close`, or with the process.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradtrace.monitor.hooks.patches import interpose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gradtrace.integrations.follower import Follower
    from gradtrace.monitor.hooks.patches import Interposition


@dataclass(frozen=True, slots=True)
class Raises:
    """Where a training raises: `method` of a `kind`, by which those `of` that instance end."""

    kind: type
    method: str
    of: Callable[[Any], Iterable[Follower]]


@dataclass(slots=True)
class _Seen:
    num_followers: int = 0
    interposition: Interposition | None = None


_SEEN: dict[Raises, _Seen] = {}


def end_where(raises: Raises, follower: Follower) -> None:
    """Have the followers of a trainer end where it raises, as long as `follower` lives."""
    seen = _SEEN.setdefault(raises, _Seen())
    seen.num_followers += 1
    if seen.interposition is None:
        seen.interposition = interpose(raises.kind, raises.method, _handler(raises.of))
    weakref.finalize(follower, _let_go, raises).atexit = False


def _let_go(raises: Raises) -> None:
    seen = _SEEN[raises]
    seen.num_followers -= 1
    if not seen.num_followers and seen.interposition is not None:
        del _SEEN[raises]
        seen.interposition.remove()


def _handler(of: Callable[[Any], Iterable[Follower]]) -> Callable[..., Any]:
    def handler(own: Callable[..., Any], trainer: Any, /, *args: Any, **kwargs: Any) -> Any:
        try:
            return own(trainer, *args, **kwargs)
        except BaseException as error:
            for follower in list(of(trainer)):
                follower.end(finished=False, error=error)
            raise

    return handler
