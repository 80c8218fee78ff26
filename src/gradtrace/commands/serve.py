"""`gradtrace serve`: the report of a run, or all runs of a folder, live in the browser."""

from __future__ import annotations

import click

from gradtrace.commands.ending import in_a_sentence
from gradtrace.errors import InputError


@click.command(short_help="The report of a run, live in the browser.")
@click.argument("file", type=click.Path())
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="By default any free one.")
@in_a_sentence
def serve(file: str, port: int) -> None:
    """Show the report of FILE while it goes on, or all runs of a folder, in this machine's browsers until Ctrl-C."""
    from gradtrace.report.html.server import ReportServer

    try:
        server = ReportServer(file, port)
    except OSError as error:
        raise InputError(f"cannot listen on port {port}: {error.strerror or error}") from error
    with server:
        click.echo(server.url)
        server.serve_forever()
