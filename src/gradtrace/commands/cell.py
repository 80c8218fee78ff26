"""``%%gradtrace``: a cell of a notebook under watch; ``%load_ext gradtrace`` brings it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "gradtrace"


@click.command("%%gradtrace", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", required=False)
@click.option("--budget", type=click.FloatRange(0, min_open=True), default=0.02, show_default=True, metavar="FRAC",
              help="What watching may cost, as a fraction of the time: it spaces the sampled steps.")  # fmt: skip
@click.option("--every", type=click.IntRange(min=1), metavar="N", help="Trace every Nth step, whatever it costs.")
@click.option("--on-nonfinite", type=click.Choice(["report", "stop", "skip"]), default="report", show_default=True,
              help="At a NaN or Inf: go on, end the cell, or leave out that optimizer step.")  # fmt: skip
@click.option("--path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Where to keep the run.  [default: in memory]")  # fmt: skip
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write an HTML report at the end.")  # fmt: skip
@click.option("--live/--no-live", default=None, help="Draw while it runs.  [default: draw]")
def line_of(**options: Any) -> dict[str, Any]:
    """Run the cell, and watch the gradients of whatever it trains.

    NAME is a variable for the watch: NAME.diagnosis, NAME.run, NAME.report(FILE).
    """
    return options


def magic(shell: Any) -> Callable[[str, str], Any]:
    """The cell magic of `shell`."""
    from IPython.core import magic as magics
    from IPython.core.error import UsageError

    is_busy = False

    def gradtrace(line: str, cell: str | None = None) -> Any:
        """Run the cell under watch: ``%%gradtrace [NAME] [--every N] ...``; ``%gradtrace --help`` says more."""
        __tracebackhide__ = True  # IPython shows the cell's own frames
        nonlocal is_busy
        try:
            options = _parsed(line)
        except (click.ClickException, ValueError) as error:
            raise UsageError(f"%%gradtrace: {_sentence(error)}") from None
        if options is None:  # they were asked for, and are told by now
            return None
        if cell is None:
            raise UsageError("%gradtrace watches a cell: %%gradtrace in its first line")
        from gradtrace.runner.cell import compiled, run_cell
        from gradtrace.runner.watching import WatchOptions

        if is_busy:
            click.echo("gradtrace: this cell is part of one that is under watch already", err=True)
            return compiled(shell, cell)()
        is_busy, name = True, options.pop("name")
        try:
            value, watch = run_cell(shell, cell, WatchOptions(**options))
        finally:
            is_busy = False
        if name is not None:
            shell.user_ns[name] = watch
        return value

    if silenced := getattr(magics, "output_can_be_silenced", None):  # by a semicolon; not every IPython can
        silenced(gradtrace)
    return gradtrace


def _parsed(line: str) -> dict[str, Any] | None:
    """What stands behind ``%%gradtrace``; None where it was ``--help``."""
    found = line_of.main(shlex.split(line), prog_name="%%gradtrace", standalone_mode=False)
    if not isinstance(found, dict):
        return None
    if found["name"] is not None and not found["name"].isidentifier():
        raise ValueError(f"{found['name']!r} is no name for a variable")
    for file in ("path", "report"):
        found[file] = found[file].absolute() if found[file] is not None else None
    return found


def _sentence(error: Exception) -> str:
    return error.format_message() if isinstance(error, click.ClickException) else str(error)
