"""How does a script under watch begin and end? As it would alone: its exit code, its traceback, its signals.

In order: the script runs; an exception is shown by ``sys.excepthook`` (the script's own, if it set one); threads that
it left behind are awaited; the watch ends; the process leaves as Python would have let it. Nothing of ours is written
to stdout.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

from gradtrace.errors import InputError
from gradtrace.runner.frames import clean
from gradtrace.runner.script import check_exists, execute

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.runner.script import Script

_RAISED = 1
"""Python's exit code after an exception that nobody caught."""


def run(script: Script, finish: Callable[[BaseException | None], None]) -> NoReturn:
    """Run `script`, call `finish` with what ended it (None: its last line), and leave the process as the script would.

    Raises:
        InputError: There is no such script; nothing was run.
        SystemExit: Otherwise, with the script's exit code.
    """
    check_exists(script)
    interrupted = _InterruptAtExit()
    owner = os.getpid()
    error = _ending_of(script)
    if isinstance(error, InputError) and error.__traceback__ is None:
        raise error
    if error is not None and not isinstance(error, SystemExit):
        _show(error)
    if os.getpid() == owner:  # a process that the script forked, and that came down to here, has nothing to finish
        _await_threads()
        finish(error)
    if isinstance(error, SystemExit):
        raise error
    interrupted.happened = isinstance(error, KeyboardInterrupt)
    raise SystemExit(0 if error is None else _RAISED)


def _ending_of(script: Script) -> BaseException | None:
    try:
        execute(script)
    except BaseException as error:
        clean(error)
        return error
    return None


def _show(error: BaseException) -> None:
    sys.excepthook(type(error), error, error.__traceback__)


def _await_threads() -> None:
    """Python waits for them before it leaves; they may still be training.

    Before it does, it has pools of threads end (``concurrent.futures``), which would wait for work for ever.
    """
    try:
        ends: list[Callable[[], None]] = getattr(threading, "_threading_atexits", [])
        while ends:
            _end(ends.pop())
        for thread in threading.enumerate():
            if not thread.daemon and thread is not threading.current_thread():
                thread.join()
    except KeyboardInterrupt as error:
        clean(error)
        _show(error)


def _end(pool: Callable[[], None]) -> None:
    try:
        pool()
    except Exception as error:  # Python shows it, and leaves with the code that it would have left with
        _show(error)


class _InterruptAtExit:
    """Python that was interrupted (Ctrl-C) dies by that signal, after all else: a shell loop around it stops too."""

    def __init__(self) -> None:
        self.happened = False
        atexit.register(self._die)  # before the script registers its own: the last to be called

    def _die(self) -> None:
        if self.happened:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
