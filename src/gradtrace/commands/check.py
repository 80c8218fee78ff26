"""`gradtrace check`: judge a network."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from gradtrace.commands.ending import UNHEALTHY, in_a_sentence
from gradtrace.commands.screen import working
from gradtrace.commands.seeds import seed_all
from gradtrace.errors import InputError
from gradtrace.records.vocabulary import Severity

if TYPE_CHECKING:
    from gradtrace.records.finding import Diagnosis


@click.command(short_help="What is wrong with a network, why, and what to change.")
@click.argument("target")
@click.option("--steps", type=click.IntRange(min=0), default=0, metavar="K",
              help="Train a copy for K optimizer steps and judge what appears then.")  # fmt: skip
@click.option("--accumulate", type=click.IntRange(min=1), default=1, metavar="N", help="Batches per optimizer step.")
@click.option("--format", "form", type=click.Choice(["text", "json", "github"]), default="text", show_default=True,
              help="Of the verdict: to read, for programs, or GitHub's annotations.")  # fmt: skip
@click.option("--save-trace", type=click.Path(dir_okay=False), metavar="PATH", help="Keep the trace (gzipped JSON).")
@click.option("--save", type=click.Path(dir_okay=False), metavar="FILE", help="Keep the diagnosis (gzipped JSON).")
@click.option("--report", type=click.Path(dir_okay=False), metavar="FILE", help="Write the report (one HTML file).")
@click.option("--fail-on", type=click.Choice([severity.value for severity in Severity]), default="warning",
              show_default=True, help="Exit with 1 from this severity on.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of all random numbers.")
@click.option("--device", metavar="D", help="Move model and batches there, as 'cuda:0'.")
@in_a_sentence
def check(
    target: str,
    steps: int,
    accumulate: int,
    form: str,
    save_trace: str | None,
    save: str | None,
    report: str | None,
    fail_on: str,
    seed: int,
    device: str | None,
) -> None:
    """Judge the network that TARGET makes: package.module:factory or path/to/file.py:factory.

    The factory returns (model, loss_fn, batches), and optionally an optimizer; loss_fn(model, batch) returns the loss.
    """
    with working() as say:
        seed_all(seed)
        from gradtrace.commands.target import load_target

        loaded = load_target(target)
        if device is not None:
            from gradtrace.commands.placement import place

            loaded = place(loaded, device)
        diagnosis = loaded.check(steps=steps, accumulate=accumulate, progress=say)
    if save_trace is not None:
        _save_trace(diagnosis, save_trace)
    if save is not None:
        diagnosis.save(save)
        click.echo(f"Saved the diagnosis: gradtrace show {save}", err=True)
    if report is not None:
        diagnosis.report(report)
    from gradtrace.report.terminal import verdict

    if form == "json":
        click.echo(diagnosis.to_json())
    elif form == "github":
        from gradtrace.report.annotations import annotate

        if told := annotate(diagnosis):
            click.echo(told)
    else:
        diagnosis.show()
        click.echo()
        if not diagnosis.healthy:
            click.echo(f"Prove it: gradtrace fix {target}")
        click.echo(verdict(diagnosis))
    if any(finding.severity.rank >= Severity(fail_on).rank for finding in diagnosis.findings):
        sys.exit(UNHEALTHY)


def _save_trace(diagnosis: Diagnosis, path: str) -> None:
    from gradtrace.report.tables import main_trace

    trace = main_trace(diagnosis)
    if trace is None:
        raise InputError("there is no trace to save: no backward pass was measured")
    trace.save(path)
    click.echo(f"Saved the trace: gradtrace show {path}", err=True)
