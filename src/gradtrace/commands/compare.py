"""`gradtrace compare`: two runs side by side."""

from __future__ import annotations

from pathlib import Path

import click

from gradtrace.commands.ending import in_a_sentence
from gradtrace.commands.screen import screen_width


@click.command(short_help="Two runs side by side.")
@click.argument("first", type=click.Path())
@click.argument("second", type=click.Path())
@in_a_sentence
def compare(first: str, second: str) -> None:
    """Set two runs side by side: losses, norms, findings, and the layers whose gradients differ most."""
    from gradtrace.report.run import compare as draw
    from gradtrace.runs.reader import read_run

    click.echo(draw([(Path(path).name, read_run(path)) for path in (first, second)], screen_width()))
