"""How does a command run? What goes wrong is one sentence, a bar moves while work goes on, seeds are set."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import click

from gradtrace.errors import GradtraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BAD_INPUT, OUR_FAULT, INTERRUPTED = 2, 3, 130
"""Exit codes; 1 is a finding."""


def in_a_sentence(command: Callable[..., None]) -> Callable[..., None]:
    """What goes wrong is said in one sentence on stderr, with exit code 2."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except GradtraceError as error:
            click.echo(f"gradtrace: {error}", err=True)
            sys.exit(BAD_INPUT)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            import traceback

            from gradtrace.torch_at_hand import why_unfit

            if unfit := why_unfit():
                click.echo(f"gradtrace: {unfit}", err=True)
                sys.exit(BAD_INPUT)
            from gradtrace.target import describe

            traceback.print_exc()
            click.echo(f"gradtrace: this is a fault of gradtrace, please report it: {describe(error)}", err=True)
            sys.exit(OUR_FAULT)

    return run


def screen_width() -> int:
    """Cells of the terminal (or $COLUMNS); of a file or a pipe 120."""
    return shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() or "COLUMNS" in os.environ else 120


def any_encoding_will_do() -> None:
    """A character that standard output cannot say becomes a question mark, and no error."""
    with contextlib.suppress(AttributeError, ValueError, OSError):  # a stream of somebody's own
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]


def seed_all(number: int) -> None:
    """Python's, NumPy's and torch's generators."""
    import random

    import numpy as np
    import torch

    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


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
