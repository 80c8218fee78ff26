"""`gradtrace export`: a run's numbers as a table."""

from __future__ import annotations

from pathlib import Path

import click

from gradtrace.commands.ending import in_a_sentence


@click.command(short_help="A run's numbers as a table (CSV, Parquet).")
@click.argument("file", type=click.Path())
@click.option("--csv", "kind", flag_value="csv", default="csv", help="Comma-separated text (the default).")
@click.option("--parquet", "kind", flag_value="parquet", help="Parquet; needs pip install '.[parquet]'.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="By default beside FILE.")
@in_a_sentence
def export(file: str, kind: str, output: Path | None) -> None:
    """Write the numbers of a run as a table: one line a step (or a few old ones pooled) and parameter."""
    from gradtrace.runs.export import export_file

    num_lines, where = export_file(Path(file), kind, output)
    click.echo(f"{num_lines} lines in {where}")
