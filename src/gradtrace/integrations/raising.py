"""How does a trainer that tells nobody of an exception end by one? What its method raises is seen on the way out.

The method of the trainer's class is stood in for, once for good: it is called as ever, and what it raises it raises,
after the watches of this very trainer are closed. A subclass that trains in a method of its own is not seen; its watch
ends with the next training, by `close`, or with the process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradtrace.monitor.hooks.patches import interpose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gradtrace.integrations.follower import Follower

_SEEN: set[tuple[type, str]] = set()


def end_where_it_raises(kind: type, method: str, of: Callable[[Any], Iterable[Follower]]) -> None:
    """Where `method` of a `kind` raises, the followers `of` that instance end by it."""
    if (kind, method) in _SEEN:
        return
    _SEEN.add((kind, method))

    def handler(own: Callable[..., Any], trainer: Any, /, *args: Any, **kwargs: Any) -> Any:
        try:
            return own(trainer, *args, **kwargs)
        except BaseException as error:
            for follower in list(of(trainer)):
                follower.end(finished=False, error=error)
            raise

    interpose(kind, method, handler)
