"""A fault of ours ends the watch and not the training: every entrance that a user's line goes through passes here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradtrace.errors import NonfiniteError

if TYPE_CHECKING:
    from collections.abc import Callable


class Guard:
    """Calls what a hook tells; what is raised there goes to `fail`, once, the wish to stop the training aside.

    >>> faults = []
    >>> guard = Guard(faults.append)
    >>> guard(divmod, 7, 2), guard(divmod, 7, 0), guard(divmod, 7, 2), len(faults)
    ((3, 1), None, None, 1)
    """

    def __init__(self, fail: Callable[[Exception], None]) -> None:
        self._fail = fail
        self._is_over = False

    def __call__(self, method: Callable[..., Any], *args: Any) -> Any:
        """What `method` returns; None from its first fault on."""
        if self._is_over:
            return None
        try:
            return method(*args)
        except NonfiniteError:
            raise
        except Exception as error:
            self._is_over = True
            self._fail(error)
            return None
