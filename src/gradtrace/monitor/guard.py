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
        self._guarded: dict[str, Callable[..., None]] = {}

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name not in self._guarded:
            self._guarded[name] = self._guard(getattr(self._listener, name))
        return self._guarded[name]

    def _guard(self, method: Callable[..., None]) -> Callable[..., None]:
        def guarded(*args: Any) -> None:
            try:
                method(*args)
            except NonfiniteError:
                raise
            except Exception as error:
                self._fail(error)

        return guarded
