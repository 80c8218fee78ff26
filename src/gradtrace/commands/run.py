"""`gradtrace run`: a training script, unchanged, under watch."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import click

from gradtrace.commands.ending import in_a_sentence
from gradtrace.commands.outputs import check_outputs


@click.command(
    short_help="Run a training script unchanged, and watch its gradients.",
    context_settings={"allow_interspersed_args": False},
)
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
    from gradtrace.monitor.recording.sinks.choice import check_sink
    from gradtrace.project import find_settings
    from gradtrace.runner.program import run as run_program
    from gradtrace.runner.script import Script, check_exists
    from gradtrace.runner.watching import WatchOptions, default_path, watched

    target = Script(script, arguments, is_module)
    check_exists(target)
    for sink in options["sinks"]:
        check_sink(sink)
    if report is not None:
        with contextlib.suppress(OSError):  # if its folder cannot be made, it cannot be written, which is told now
            report.parent.mkdir(parents=True, exist_ok=True)
        check_outputs(pages=(str(report),))
    thresholds = find_settings().thresholds  # before the script goes elsewhere
    path, report = (path or default_path(target)).absolute(), report.absolute() if report else None
    run_program(target, watched(target, WatchOptions(path=path, report=report, thresholds=thresholds, **options)))
