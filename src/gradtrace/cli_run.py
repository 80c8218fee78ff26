"""The command line of training runs: run a script under watch, list, draw, export and compare what was kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gradtrace.commandline import in_a_sentence, screen_width
from gradtrace.errors import TraceFileError


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("-m", "is_module", is_flag=True, help="SCRIPT is a module: gradtrace run -m package.module ...")
@click.option("--path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Where to keep the run.  [default: gradtrace-runs/SCRIPT-DATE-TIME.db]")  # fmt: skip
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write an HTML report at the end.")  # fmt: skip
@click.option("--budget", type=click.FloatRange(0, min_open=True), default=0.02, show_default=True, metavar="FRAC",
              help="What watching may cost, as a fraction of the time: it spaces the sampled steps.")  # fmt: skip
@click.option("--every", type=click.IntRange(min=1), metavar="N", help="Trace every Nth step, whatever it costs.")
@click.option("--on-nonfinite", type=click.Choice(["report", "stop", "skip"]), default="report", show_default=True,
              help="At a NaN or Inf: go on, end the script, or leave out that optimizer step.")  # fmt: skip
@click.option("--sink", "sinks", multiple=True, metavar="KIND[:PLACE]",
              help="Also send the numbers to tensorboard, wandb, mlflow or trackio. May be repeated.")  # fmt: skip
@click.option("--live/--no-live", default=None, help="Draw while it runs.  [default: if stderr is a terminal]")
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@in_a_sentence
def run(
    script: str, arguments: tuple[str, ...], is_module: bool, path: Path | None, report: Path | None, **options: Any
) -> None:
    """Run a training SCRIPT unchanged, with its own ARGUMENTS, and watch its gradients.

    Its output, exit code and signals are its own; what gradtrace has to say goes to stderr and into the run's file.
    """
    from gradtrace.monitor.sinks.choice import check_sink
    from gradtrace.runner.program import run as run_program
    from gradtrace.runner.script import Script, check_exists
    from gradtrace.runner.watching import WatchOptions, default_path, watched

    target = Script(script, arguments, is_module)
    check_exists(target)
    for sink in options["sinks"]:
        check_sink(sink)
    path, report = (path or default_path(target)).absolute(), report.absolute() if report else None
    run_program(target, watched(target, WatchOptions(path=path, report=report, **options)))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default="gradtrace-runs", required=False)
@in_a_sentence
def runs(folder: Path) -> None:
    """List the runs kept in FOLDER, the newest first."""
    from gradtrace.report.run import list_runs as draw
    from gradtrace.runs.reader import list_runs, read_run

    readable = []
    for path in list_runs(folder):
        try:
            readable.append((path, read_run(path)))
        except TraceFileError as error:
            click.echo(f"gradtrace: {error}", err=True)
    click.echo(draw(readable, screen_width()) if readable else f"There are no runs in {folder}.")


@click.command()
@click.argument("file", type=click.Path())
@click.option("--csv", "kind", flag_value="csv", default="csv", help="Comma-separated text (the default).")
@click.option("--parquet", "kind", flag_value="parquet", help="Parquet; needs pip install gradtrace[parquet].")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="By default beside FILE.")
@in_a_sentence
def export(file: str, kind: str, output: Path | None) -> None:
    """Write the numbers of a run as a table: one line a step (or a few old ones pooled) and parameter."""
    from gradtrace.runs.export import export_file

    num_lines, where = export_file(Path(file), kind, output)
    click.echo(f"{num_lines} lines in {where}")


@click.command()
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


COMMANDS = (run, runs, export, compare)
