"""What does any record look like, on a terminal, as text, and as a page? One entry for each kind."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from gradtrace.diagnosis.judge import judge_trace
from gradtrace.diagnosis.timeline.standing import standing
from gradtrace.errors import TraceFileError
from gradtrace.records.files import PAGES, check_output
from gradtrace.records.finding import Diagnosis
from gradtrace.records.prediction import Prediction
from gradtrace.records.repair import Repair
from gradtrace.records.run import Run
from gradtrace.records.time import ThroughTime
from gradtrace.records.trace import Trace
from gradtrace.report.opened import open_file, opened
from gradtrace.report.prediction import to_text as prediction_text
from gradtrace.report.repair import show as show_repair
from gradtrace.report.run import compare, show_run
from gradtrace.report.terminal import show as show_diagnosis
from gradtrace.report.through_time import to_text as through_time_text
from gradtrace.report.words import ascii_text
from gradtrace.runs.loading import load
from gradtrace.runs.reader import read_trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.runs.loading import Record

TEXT_WIDTH = 100
MOST_WIDTH = {Prediction: 140, ThroughTime: 120}


def show(record: Record, console: Console | None = None) -> None:
    """Print it; a bare trace is judged, and so is an unfinished run."""
    console = console or Console()
    if isinstance(record, Trace):
        show_diagnosis(judge_trace(record), console, bare=True)
    elif isinstance(record, Diagnosis):
        show_diagnosis(record, console)
    elif isinstance(record, Run):
        show_run(standing(record, None), console)
    elif isinstance(record, Repair):
        show_repair(record, console)
    else:
        _print(record, console)


def _print(record: Prediction | ThroughTime, console: Console) -> None:
    width, ascii_only = min(console.width, MOST_WIDTH[type(record)]), console.options.ascii_only
    if isinstance(record, Prediction):
        text = prediction_text(record, width)
        text = ascii_text(text) if ascii_only else text
    else:
        text = through_time_text(record, width, ascii_only=ascii_only)
    console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


def to_text(record: Record) -> str:
    """What `show` prints, without colour."""
    console = Console(
        file=io.StringIO(), width=TEXT_WIDTH, color_system=None, force_terminal=False, legacy_windows=False
    )
    show(record, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip("\n")


# --------------------------------------------------------------------------------------------------------------- files


def write(record: Record, path: str | Path) -> None:
    """The page of a record; raises `TraceFileError` where it cannot be written."""
    from gradtrace.report.html.page import render_opened, write_text

    write_text(Path(path), render_opened(opened(record)))


def show_file(path: str | Path, console: Console | None = None) -> None:
    """Print what is in a file of any kind that gradtrace writes; raises `TraceFileError` as `gradtrace.load`."""
    path = Path(path)
    record = load(path)
    if not isinstance(record, Run):
        show(record, console)
        return
    trace = None
    with suppress(TraceFileError):
        trace = read_trace(path, record.samples[-1]) if record.samples else None
    show_run(standing(record, trace), console, trace)


def report_file(path: str | Path, output: str | Path | None = None) -> Path:
    """Write the page of what is in a file, beside it where no `output` is named; returns where it is.

    Raises:
        TraceFileError: as `gradtrace.load`; or what lies at the output is not to be overwritten.
    """
    from gradtrace.report.html.page import render_opened, write_text

    path = Path(path)
    page = render_opened(open_file(path))
    where = Path(output) if output is not None else beside(path, ".html")
    check_output(where, path, ours=PAGES)
    write_text(where, page)
    return where


def compare_files(paths: Sequence[str | Path], output: str | Path | None = None, width: int = 120) -> str:
    """Two to N runs beside each other as text; with an `output` also as a page there.

    Raises:
        TraceFileError: one of them is no run, or the output is not to be overwritten.
        InputError: there are fewer than two.
    """
    from gradtrace.report.html.comparison import read_runs, render_runs
    from gradtrace.report.html.page import write_text

    files = [Path(path) for path in paths]
    runs = read_runs(files)
    if output is not None:
        for file in files:
            check_output(Path(output), file, ours=PAGES)
        write_text(Path(output), render_runs(runs))
    return compare(runs, width)


def beside(path: Path, suffix: str) -> Path:
    """``a.html`` for ``a.json.gz`` and for ``a.db``; never `path` itself."""
    name = path.name.removesuffix(".gz").removesuffix(".json").removesuffix(".db")
    return path.with_name(f"{name}{suffix}")
