"""How wide is the screen, which letters does it know, and what moves on it while work goes on?"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def screen_width() -> int:
    """Cells of the terminal (or $COLUMNS); of a file or a pipe 120."""
    return shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() or "COLUMNS" in os.environ else 120


def any_encoding_will_do() -> None:
    """A character that standard output cannot say becomes a question mark, and no error."""
    with contextlib.suppress(AttributeError, ValueError, OSError):  # a stream of somebody's own
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]


def progress_bar() -> Any:
    """A bar on stderr, and nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)


@contextlib.contextmanager
def working() -> Iterator[Callable[[str], None]]:
    """A bar that moves while work goes on, and says which; what the user's code prints goes to stderr."""
    with progress_bar() as progress, contextlib.redirect_stdout(sys.stderr):
        task = progress.add_task("loading", total=None)
        yield lambda what: progress.update(task, description=what)
