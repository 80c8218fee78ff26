"""A fault of ours ends the watch and not the training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradtrace.errors import NonfiniteError

if TYPE_CHECKING:
    from collections.abc import Callable


class Guarded:
    """Hands on what hooks tell to `listener`; what is raised there goes to `fail`, the wish to stop aside."""

    def __init__(self, listener: Any, fail: Callable[[Exception], None]) -> None:
        self._listener, self._fail = listener, fail

    def __getattr__(self, name: str) -> Callable[..., None]:
        method, fail = getattr(self._listener, name), self._fail

        def guarded(*args: Any) -> None:
            try:
                method(*args)
            except NonfiniteError:
                raise
            except Exception as error:
                fail(error)

        setattr(self, name, guarded)  # found without us from now on
        return guarded
