"""What is a page made of? Of any record, or of what lies in a file; of a run its whole traces too."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gradtrace.diagnosis.judge import judge_trace
from gradtrace.diagnosis.timeline.standing import standing
from gradtrace.errors import TraceFileError
from gradtrace.records.finding import Diagnosis
from gradtrace.records.prediction import Prediction
from gradtrace.records.repair import Repair
from gradtrace.records.run import Run
from gradtrace.records.trace import Trace
from gradtrace.runs.loading import load
from gradtrace.runs.reader import read_trace

if TYPE_CHECKING:
    from gradtrace.records.time import ThroughTime
    from gradtrace.runs.loading import Record

MOST_TRACES = 24
"""Whole traces of a run that a page holds: the latest, and others evenly between."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What a page is made of."""

    diagnosis: Diagnosis
    run: Run | None = None
    through_time: tuple[ThroughTime, ...] = ()
    prediction: Prediction | None = None
    repair: Repair | None = None
    sampled: tuple[tuple[int, Trace], ...] = ()
    """(step, trace) of the run, the latest last."""
    bare: bool = False
    """True where all that was looked at is one trace: no other batch, no probe, no step."""


def opened(record: Record, name: str = "") -> Opened:
    """The record with what is made of it: the judgement of a trace, the findings of a run."""
    if isinstance(record, Diagnosis):
        return Opened(record)
    if isinstance(record, Trace):
        return Opened(replace(judge_trace(record), title=name), bare=True)
    if isinstance(record, Run):
        run = standing(record, None)
        return Opened(Diagnosis(run.findings, title=run.header.title or name), run)
    if isinstance(record, Repair):
        return Opened(record.diagnosis, repair=record)
    diagnosis = Diagnosis((), title=record.title or name)
    if isinstance(record, Prediction):
        return Opened(diagnosis, prediction=record)
    return Opened(diagnosis, through_time=(record,))


def open_file(path: str | Path) -> Opened:
    """What is in the file, of a run its whole traces too; raises `TraceFileError` as `gradtrace.load`."""
    path = Path(path)
    record = load(path)
    return open_run(record, path) if isinstance(record, Run) else opened(record, path.name)


def open_run(run: Run, path: Path) -> Opened:
    """A run with its findings (those so far, where it goes on), and the whole traces that can be read."""
    sampled = []
    for step in spread(run.samples, MOST_TRACES):
        with suppress(TraceFileError):  # a trace that cannot be read takes nothing from the run
            sampled.append((step, read_trace(path, step)))
    run = standing(run, sampled[-1][1] if sampled else None)
    traces = (sampled[-1][1],) if sampled else ()
    diagnosis = Diagnosis(run.findings, traces, title=run.header.title or path.name)
    return Opened(diagnosis, run, sampled=tuple(sampled))


def spread(steps: tuple[int, ...], most: int) -> list[int]:
    """At most so many of them, evenly, the first and the last among them.

    >>> spread((0, 10, 20, 30, 40), 3)
    [0, 20, 40]
    """
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]
