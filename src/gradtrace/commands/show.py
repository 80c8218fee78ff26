"""`gradtrace show`: draw a file in the terminal."""

from __future__ import annotations

import click

from gradtrace.commands.ending import in_a_sentence


@click.command(short_help="Draw a saved run, trace or diagnosis in the terminal.")
@click.argument("file", type=click.Path())
@in_a_sentence
def show(file: str) -> None:
    """Draw a saved run, trace, diagnosis, repair, prediction or record through time, without model or torch."""
    from gradtrace.report.showing import show_file

    show_file(file)
