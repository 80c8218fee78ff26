"""`gradtrace compare`: runs side by side."""

from __future__ import annotations

from pathlib import Path

import click

from gradtrace.commands.ending import in_a_sentence
from gradtrace.commands.screen import screen_width


@click.command(short_help="Runs side by side.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Also write a page (one HTML file)."
)
@in_a_sentence
def compare(files: tuple[Path, ...], output: Path | None) -> None:
    """Set runs (or all in a folder) side by side: losses, norms, findings, and layers whose gradients differ most."""
    from gradtrace.report.showing import compare_files

    click.echo(compare_files(files, output, screen_width()))
    if output is not None:
        click.echo(f"\n{output}")
