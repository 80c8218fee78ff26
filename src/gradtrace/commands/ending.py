"""How does a command end? With an exit code, and what goes wrong is one sentence."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

import click

from gradtrace.errors import GradtraceError, describe

if TYPE_CHECKING:
    from collections.abc import Callable

UNHEALTHY, BAD_INPUT, OUR_FAULT, INTERRUPTED = 1, 2, 3, 130
"""Exit codes."""


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
            traceback.print_exc()
            click.echo(f"gradtrace: this is a fault of gradtrace, please report it: {describe(error)}", err=True)
            sys.exit(OUR_FAULT)

    return run
