"""`gradtrace show`: draw a file in the terminal."""

from __future__ import annotations

import contextlib

import click

from gradtrace.commands.ending import in_a_sentence
from gradtrace.errors import GradtraceError


@click.command(short_help="Draw a saved run, trace or diagnosis in the terminal.")
@click.argument("file", type=click.Path())
@in_a_sentence
def show(file: str) -> None:
    """Draw a saved run, trace, diagnosis, repair, prediction or record through time, without model or torch."""
    from gradtrace.diagnosis.judge import judge_trace
    from gradtrace.records.storage import load
    from gradtrace.records.trace import Trace
    from gradtrace.runs.reader import is_run

    if is_run(file):
        _show_run(file)
        return
    record = load(file)
    (judge_trace(record) if isinstance(record, Trace) else record).show()


def _show_run(file: str) -> None:
    """Draw a run and its findings."""
    from gradtrace.diagnosis.timeline.standing import standing
    from gradtrace.report.run import show_run as draw
    from gradtrace.runs.reader import read_run, read_trace

    run, trace = read_run(file), None
    with contextlib.suppress(GradtraceError):  # a trace that cannot be read takes nothing from the run
        trace = read_trace(file, run.samples[-1]) if run.samples else None
    draw(standing(run, trace), trace=trace)
