"""What is in a file that the reader names: a trace, a diagnosis, or a run?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gradtrace.diagnosis.judge import judge_trace
from gradtrace.diagnosis.timeline.standing import standing
from gradtrace.errors import TraceFileError
from gradtrace.records.finding import Diagnosis
from gradtrace.records.prediction import Prediction
from gradtrace.records.repair import Repair
from gradtrace.records.storage import load
from gradtrace.records.time import ThroughTime
from gradtrace.records.trace import Trace
from gradtrace.runs.reader import read_run, read_trace

if TYPE_CHECKING:
    from gradtrace.records.run import Run

SQLITE = b"SQLite format 3\0"
"""How a run's file begins (sqlite.org, Database File Format, section 1.3)."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What a report is made of."""

    diagnosis: Diagnosis
    run: Run | None = None
    through_time: tuple[ThroughTime, ...] = ()
    repair: Repair | None = None


def open_file(path: str | Path) -> Opened:
    """The diagnosis in `path` (of a trace: its judgement), and the run or the gradient through time if it holds one.

    Raises:
        TraceFileError: there is no such file, or it is none of these.
    """
    path = Path(path)
    if is_run(path):
        return open_run(path)
    record = load(path)
    if isinstance(record, ThroughTime):
        return Opened(Diagnosis((), title=record.title or path.name), through_time=(record,))
    if isinstance(record, Trace):
        return Opened(replace(judge_trace(record), title=path.name))
    if isinstance(record, Prediction):
        raise TraceFileError(
            f"{path} holds a prediction, of which there is no report: gradtrace show {path.name} draws it"
        )
    if isinstance(record, Repair):
        return Opened(record.diagnosis, repair=record)
    return Opened(record)


def is_run(path: Path) -> bool:
    """Whether the file begins as a run's does."""
    try:
        with path.open("rb") as file:
            return file.read(len(SQLITE)) == SQLITE
    except OSError as error:
        raise TraceFileError(f"cannot read {path}: {error.strerror or error}") from error


def open_run(path: Path) -> Opened:
    """The run in `path`, its findings (those so far, where it goes on), and the latest whole trace."""
    run = read_run(path)
    traces = (read_trace(path, run.samples[-1]),) if run.samples else ()
    run = standing(run, traces[0] if traces else None)
    return Opened(Diagnosis(run.findings, traces, title=run.header.title or path.name), run)
