"""What does a user see of a script that raised? Its own traceback, without the frames of who ran and watched it."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

_PACKAGES = ("runner", "monitor", "measure", "tape")
_OURS = tuple(str(Path(__file__).resolve().parents[1] / package) + "/" for package in _PACKAGES)
"""Not the whole of gradtrace: a script may call it, and then wants to see where that failed."""


def clean(error: BaseException) -> None:
    """Take our frames out of the tracebacks of `error` and of all that led to it, in place."""
    waiting: list[BaseException | None] = [error]
    done: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in done:
            continue
        done.add(id(one))
        one.__traceback__ = _without_ours(one.__traceback__)
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions


def _without_ours(traceback: TracebackType | None) -> TracebackType | None:
    kept = []
    while traceback is not None:
        if not traceback.tb_frame.f_code.co_filename.startswith(_OURS):
            kept.append(traceback)
        traceback = traceback.tb_next
    cleaned = None
    for one in reversed(kept):
        cleaned = TracebackType(cleaned, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return cleaned
