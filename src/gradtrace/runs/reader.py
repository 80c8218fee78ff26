"""Reads a run's file, while it is written or afterwards, without torch."""

from __future__ import annotations

import sqlite3
import struct
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gradtrace.errors import TraceFileError
from gradtrace.records.codec import decode
from gradtrace.records.files import SQLITE, parse, starts_with
from gradtrace.records.finding import Diagnosis
from gradtrace.records.run import EventKind, Run, RunHeader, WatchCost
from gradtrace.records.storage import unpack as unpack_record
from gradtrace.records.trace import Trace
from gradtrace.runs.checking import checked_event, checked_rows, checked_step
from gradtrace.runs.database import has_table, open_to_read, read_meta, said
from gradtrace.runs.entries import MOST_STEPS as MOST_OF_ENTRIES
from gradtrace.runs.entries import stack_entries, unpack_entries
from gradtrace.runs.ladder import MAX_BYTES
from gradtrace.runs.ranks import MOST_BYTES as MOST_OF_RANKS
from gradtrace.runs.ranks import Said, stack_ranks, unpack_ranks
from gradtrace.runs.row import stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from gradtrace.records.finding import Finding

MOST_BYTES = 2 * MAX_BYTES
"""Of all rows: full rungs and what waits to be pooled."""
MOST_EVENTS = 10_000
"""What a writer keeps."""
MOST_TRACES = 1_000
"""More than a writer ever leaves."""


def is_run(path: str | Path) -> bool:
    """Whether a file looks like a run's: an SQLite database."""
    try:
        return starts_with(Path(path), SQLITE)
    except TraceFileError:
        return False


def read_run(path: str | Path) -> Run:
    """The run in the file `path`, traces aside.

    Raises:
        TraceFileError: there is no such file, it is no run of ours, cut off, or from a newer version.
    """
    path = Path(path)
    with closing(open_to_read(path)) as connection, _told_damage(path):
        connection.execute("BEGIN")  # one moment for all tables, whatever is written meanwhile
        meta = read_meta(connection)
        if "header" not in meta:
            raise TraceFileError(f"{path} is damaged or cut off: it has no header")
        header: RunHeader = decode(RunHeader, parse(meta["header"]))
        query = "SELECT first, count, time_s, nonfinite, packed FROM rows ORDER BY first"
        rows = checked_rows(connection.execute(query), len(header.parameters), MOST_BYTES)
        query = f"SELECT step, kind, message FROM events ORDER BY rowid LIMIT {MOST_EVENTS}"
        events = tuple(checked_event(*columns) for columns in connection.execute(query))
        num_events = connection.execute("SELECT count(*) FROM events").fetchone()[0]
        packed = connection.execute("SELECT packed FROM findings WHERE number = 0").fetchone()
        query = f"SELECT step FROM traces ORDER BY step LIMIT {MOST_TRACES}"
        samples = tuple(checked_step(step) for (step,) in connection.execute(query))
        findings = _findings(packed, path)
        ranks = stack_ranks(_reports(connection))
        entries = stack_entries(_entries(connection, len(header.parameters)), len(header.parameters))
        steps = stack(rows, len(header.parameters))
        cost = decode(WatchCost, parse(meta["cost"])) if "cost" in meta else None
    notes = tuple(dict.fromkeys(event.message for event in events if event.kind is EventKind.NOTE))
    if num_events > len(events):
        notes += (f"of {num_events:,} events the first {len(events):,} were read",)
    return Run(
        header=header,
        steps=steps,
        events=events,
        findings=findings,
        samples=samples,
        finished=meta.get("finished") == "1",
        notes=notes,
        cost=cost,
        ranks=ranks,
        entries=entries,
    )


def _reports(connection: sqlite3.Connection) -> Iterator[tuple[int, Said]]:
    """What ranks said, by step; nothing in a file of an earlier version."""
    if not has_table(connection, "ranks"):
        return
    num_bytes = 0
    for step, packed in connection.execute("SELECT step, packed FROM ranks ORDER BY step"):
        of_step = unpack_ranks(packed)
        num_bytes += of_step[0].nbytes
        if num_bytes > 2 * MOST_OF_RANKS:
            raise ValueError("what its ranks said is more than any run's")
        yield checked_step(step), of_step


def _entries(connection: sqlite3.Connection, num_parameters: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Of gradients, by step; nothing in a file of an earlier version."""
    if has_table(connection, "entries"):
        query = f"SELECT step, packed FROM entries ORDER BY step LIMIT {MOST_OF_ENTRIES + 1}"
        for step, packed in connection.execute(query):
            yield checked_step(step), unpack_entries(packed, num_parameters)


@contextmanager
def _told_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except TraceFileError:
        raise
    except (sqlite3.Error, struct.error, ArithmeticError, LookupError, TypeError, ValueError, MemoryError) as error:
        raise TraceFileError(f"{path} is damaged or cut off: {said(error)}") from error


def read_trace(path: str | Path, step: int) -> Trace:
    """The whole trace that was taken at `step` (one of `Run.samples`).

    Raises:
        TraceFileError: as `read_run`, or no trace was taken at that step.
    """
    path = Path(path)
    with closing(open_to_read(path)) as connection, _told_damage(path):
        found = connection.execute("SELECT packed FROM traces WHERE step = ?", (step,)).fetchone()
    if found is None:
        raise TraceFileError(f"{path} holds no trace of step {step}")
    record = _unpacked(found[0], path)
    if not isinstance(record, Trace):
        raise TraceFileError(f"{path} is damaged: what it holds of step {step} is no trace")
    return record


def is_same_model(path: str | Path, header: RunHeader) -> bool:
    """Whether a run with this `header` can go on in the file `path`: the parameters are those of the run within.

    Raises:
        TraceFileError: as `read_run`.
    """
    path = Path(path)
    with closing(open_to_read(path)) as connection, _told_damage(path):
        text = read_meta(connection).get("header")
        if text is None:
            return True
        kept: RunHeader = decode(RunHeader, parse(text))
    pairs = zip(kept.parameters, header.parameters, strict=False)  # either may have found more of them
    return all((a.name, a.shape) == (b.name, b.shape) for a, b in pairs)


def list_runs(folder: str | Path) -> list[Path]:
    """The runs' files in a folder, the newest first."""
    found = [path for path in Path(folder).glob("*.db") if is_run(path)]
    return sorted(found, key=_changed, reverse=True)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it is gone by now
        return 0.0


def _findings(packed: tuple[object] | None, path: Path) -> tuple[Finding, ...]:
    if packed is None:
        return ()
    record = _unpacked(packed[0], path)
    return record.findings if isinstance(record, Diagnosis) else ()


def _unpacked(packed: object, path: Path) -> object:
    if not isinstance(packed, bytes):
        raise TraceFileError(f"{path} is damaged or cut off: a record within it is no record")
    try:
        return unpack_record(packed, path)
    except TraceFileError as error:
        raise TraceFileError(f"{path} is damaged or cut off: a record within it cannot be read") from error
