"""What a call prints is heard once: not again when it is made once more beside the training."""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Mute:
    """A stream that drops what one thread writes; what others do goes to the stream behind it."""

    def __init__(self, behind: Any) -> None:
        self._behind, self._thread = behind, threading.get_ident()

    def write(self, text: str) -> int:
        if threading.get_ident() == self._thread:
            return len(text)
        return int(self._behind.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """This thread writes nothing to the standard streams meanwhile.

    >>> with silence():
    ...     print("once more")
    """
    before = sys.stdout, sys.stderr
    mutes = _Mute(sys.stdout), _Mute(sys.stderr)
    sys.stdout, sys.stderr = mutes
    try:
        yield
    finally:
        # whoever has put another stream there meanwhile keeps it
        sys.stdout = before[0] if sys.stdout is mutes[0] else sys.stdout
        sys.stderr = before[1] if sys.stderr is mutes[1] else sys.stderr
