"""`gradtrace runs`: which runs are kept in a folder?"""

from __future__ import annotations

from pathlib import Path

import click

from gradtrace.commands.ending import in_a_sentence
from gradtrace.commands.screen import screen_width
from gradtrace.errors import TraceFileError

FOLDER = "gradtrace-runs"
"""Where they are kept unless told otherwise: before the first there is none."""


@click.command(short_help="List the runs kept in a folder.")
@click.argument("folder", type=click.Path(path_type=Path), default=FOLDER, required=False)
@in_a_sentence
def runs(folder: Path) -> None:
    """List the runs kept in FOLDER, the newest first."""
    if not folder.exists() and str(folder) != FOLDER:
        raise TraceFileError(f"there is no folder {folder}")
    from gradtrace.report.run import list_runs as draw
    from gradtrace.runs.reader import list_runs, read_run

    readable = []
    for path in list_runs(folder):
        try:
            readable.append((path, read_run(path)))
        except TraceFileError as error:
            click.echo(f"gradtrace: {error}", err=True)
    click.echo(draw(readable, screen_width()) if readable else f"There are no runs in {folder.name or 'this folder'}.")
