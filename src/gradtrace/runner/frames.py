"""What does a user see of a script that raised? Its own traceback, without the frames of who ran and watched it.

Watching adds frames in between, where it stands in for ``backward`` or follows a forward pass. They are taken out,
unless the error was raised there: by a script that calls gradtrace itself.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType

from gradtrace.errors import NonfiniteError

_PACKAGE = Path(__file__).resolve().parents[1]
_RUNNER = str(_PACKAGE / "runner") + "/"
_WATCH = tuple(f"{_PACKAGE / name}/" for name in ("monitor", "measure", "tape"))


def clean(error: BaseException) -> None:
    """Take our frames out of the tracebacks of `error` and of all that led to it, in place."""
    waiting: list[BaseException | None] = [error]
    done: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in done:
            continue
        done.add(id(one))
        one.__traceback__ = _without_ours(
            one.__traceback__, elsewhere=isinstance(one, NonfiniteError | KeyboardInterrupt)
        )
        waiting += [one.__cause__, one.__context__]
        waiting += getattr(one, "exceptions", ())  # of a group, which Python 3.10 does not know


def _without_ours(traceback: TracebackType | None, *, elsewhere: bool) -> TracebackType | None:
    """`elsewhere`: what matters is where the script was, even if it was raised within the watch."""
    frames = []
    while traceback is not None:
        frames.append(traceback)
        traceback = traceback.tb_next
    ours: tuple[str, ...] = (_RUNNER,)
    if elsewhere or (frames and not _file(frames[-1]).startswith(_WATCH)):
        ours += _WATCH
    made = getattr(sys.modules.get("gradtrace.tape.callers"), "MARK", None)  # torch may never have been imported
    cleaned = None
    for one in reversed(frames):
        if not _file(one).startswith(ours) and one.tb_frame.f_code.co_name != made:
            cleaned = TracebackType(cleaned, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return cleaned


def _file(traceback: TracebackType) -> str:
    return traceback.tb_frame.f_code.co_filename
