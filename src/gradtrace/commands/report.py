"""`gradtrace report`: a file as one HTML page."""

from __future__ import annotations

import click

from gradtrace.commands.ending import in_a_sentence


@click.command(short_help="Write the report: one HTML file that needs no network.")
@click.argument("file", type=click.Path())
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False), metavar="PATH", help="Where to; by default beside FILE."
)
@in_a_sentence
def report(file: str, output: str | None) -> None:
    """Write the report of anything that gradtrace saved: one HTML file that needs no network."""
    from gradtrace.report.showing import report_file

    click.echo(report_file(file, output))
