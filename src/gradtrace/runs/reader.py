"""Reads a run's file, while it is written or afterwards, without torch."""

from __future__ import annotations

import json
import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from gradtrace.errors import TraceFileError
from gradtrace.records.codec import decode
from gradtrace.records.finding import Diagnosis
from gradtrace.records.run import EventKind, Run, RunEvent, RunHeader, WatchCost
from gradtrace.records.storage import unpack as unpack_record
from gradtrace.records.trace import Trace
from gradtrace.runs.database import open_to_read
from gradtrace.runs.row import stack, unpack

if TYPE_CHECKING:
    from gradtrace.records.finding import Finding


def is_run(path: str | Path) -> bool:
    """Whether a file looks like a run's: an SQLite database."""
    try:
        with Path(path).open("rb") as file:
            return file.read(16) == b"SQLite format 3\0"
    except OSError:
        return False


def read_run(path: str | Path) -> Run:
    """The run in the file `path`, traces aside.

    Raises:
        TraceFileError: there is no such file, it is no run of ours, cut off, or from a newer version.
    """
    path = Path(path)
    with closing(open_to_read(path)) as connection:
        try:
            connection.execute("BEGIN")  # one moment for all tables, whatever is written meanwhile
            meta = dict(connection.execute("SELECT key, value FROM meta"))
            if "header" not in meta:
                raise TraceFileError(f"{path} is damaged or cut off: it has no header")
            header: RunHeader = decode(RunHeader, json.loads(meta["header"]))
            query = "SELECT first, count, time_s, nonfinite, packed FROM rows ORDER BY first"
            rows = [unpack(*columns) for columns in connection.execute(query)]
            query = "SELECT step, kind, message FROM events ORDER BY rowid"
            events = [RunEvent(step, EventKind(kind), message) for step, kind, message in connection.execute(query)]
            packed = connection.execute("SELECT packed FROM findings WHERE number = 0").fetchone()
            cost = decode(WatchCost, json.loads(meta["cost"])) if "cost" in meta else None
            samples = tuple(step for (step,) in connection.execute("SELECT step FROM traces ORDER BY step"))
        except TraceFileError:
            raise
        except (sqlite3.Error, struct.error, LookupError, ValueError) as error:
            raise TraceFileError(f"{path} is damaged or cut off: {error}") from error
    notes = tuple(dict.fromkeys(event.message for event in events if event.kind is EventKind.NOTE))
    return Run(
        header=header,
        steps=stack(rows, len(header.parameters)),
        events=tuple(events),
        findings=_findings(packed, path),
        samples=samples,
        finished=meta.get("finished") == "1",
        notes=notes,
        cost=cost,
    )


def read_trace(path: str | Path, step: int) -> Trace:
    """The whole trace that was taken at `step` (one of `Run.samples`).

    Raises:
        TraceFileError: as `read_run`, or no trace was taken at that step.
    """
    path = Path(path)
    with closing(open_to_read(path)) as connection:
        try:
            found = connection.execute("SELECT packed FROM traces WHERE step = ?", (step,)).fetchone()
        except sqlite3.Error as error:
            raise TraceFileError(f"{path} is damaged or cut off: {error}") from error
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
    with closing(open_to_read(path)) as connection:
        found = connection.execute("SELECT value FROM meta WHERE key = 'header'").fetchone()
    if found is None:
        return True
    try:
        kept: RunHeader = decode(RunHeader, json.loads(found[0]))
    except ValueError as error:
        raise TraceFileError(f"{path} is damaged or cut off: {error}") from error
    pairs = zip(kept.parameters, header.parameters, strict=False)  # either may have found more of them
    return all((a.name, a.shape) == (b.name, b.shape) for a, b in pairs)


def list_runs(folder: str | Path) -> list[Path]:
    """The runs' files in a folder, the newest first."""
    found = [path for path in Path(folder).glob("*.db") if is_run(path)]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _findings(packed: tuple[bytes] | None, path: Path) -> tuple[Finding, ...]:
    if packed is None:
        return ()
    record = _unpacked(packed[0], path)
    return record.findings if isinstance(record, Diagnosis) else ()


def _unpacked(packed: bytes, path: Path) -> object:
    try:
        return unpack_record(packed, path)
    except TraceFileError as error:
        raise TraceFileError(f"{path} is damaged or cut off: a record within it cannot be read") from error
