"""How does gradtrace speak beside a script? In sentences on the process's own stderr, wherever the script's goes."""

from __future__ import annotations

import contextlib
import sys


def say(sentence: str) -> None:
    """One line; nothing where stderr is closed by now."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        stream = sys.__stderr__ or sys.stderr
        stream.write(f"gradtrace: {sentence}\n")
        stream.flush()
