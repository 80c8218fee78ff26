"""`gradtrace lesson`: the lecture on back propagation, written as a page."""

from __future__ import annotations

from pathlib import Path

import click

from gradtrace.commands.ending import in_a_sentence
from gradtrace.commands.outputs import check_outputs
from gradtrace.commands.screen import working


@click.command(short_help="Write the lecture on back propagation: a page that computes.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default="lesson.html",
              show_default=True, metavar="PATH", help="Where to.")  # fmt: skip
@in_a_sentence
def lesson(output: Path) -> None:
    """Write the lecture on back propagation: one HTML page, offline, that computes as its controls move.

    Why early layers do not learn, from one multiplication to a hundred layers; measured by gradtrace beside.
    """
    check_outputs(pages=(str(output),))
    with working() as say:
        say("measuring")
        from gradtrace.lesson import write_lesson

        write_lesson(output)
    click.echo(output)
