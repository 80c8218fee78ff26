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
    """Write the report of a saved trace, diagnosis, repair or run: one HTML file that needs no network."""
    from gradtrace.report.html import write_report
    from gradtrace.report.html.files import open_file

    opened = open_file(file)
    path = output or f"{file.removesuffix('.gz').removesuffix('.json').removesuffix('.db')}.html"
    write_report(path, opened.diagnosis, opened.run, through_time=opened.through_time, repair=opened.repair)
    click.echo(path)
