"""A run's file while it is written: what waits goes there in one transaction, and is bounded whatever the run's length.

Rows are pooled and traces thinned, the older the more.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gradtrace.errors import TraceFileError
from gradtrace.runs.claim import Claim
from gradtrace.runs.database import create
from gradtrace.runs.entries import thinned_entries
from gradtrace.runs.ladder import Ladder, capacity_for
from gradtrace.runs.ranks import most_reports, thinned, unpack_ranks
from gradtrace.runs.reader import is_same_model
from gradtrace.runs.row import Row, pool, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gradtrace.records.run import RunEvent, RunHeader

CLOSING_S = 5.0
"""[seconds] At the end of a run a locked file is waited for: nothing comes after it."""

MOST_TRACES = 200
"""Whole traces that a file keeps; then every second one of the older half goes."""


@dataclass(slots=True)
class Waiting:
    """What has come since the last writing."""

    rows: list[Row] = field(default_factory=list)
    events: list[RunEvent] = field(default_factory=list)
    traces: list[tuple[int, bytes]] = field(default_factory=list)
    """Step, packed."""
    ranks: list[tuple[int, bytes]] = field(default_factory=list)
    """Step, packed."""
    entries: list[tuple[int, bytes]] = field(default_factory=list)
    """Step, packed."""
    texts: dict[str, str] = field(default_factory=dict)
    """'header' and 'cost' as they are now, if the file has older ones."""
    findings: bytes | None = None
    """Packed, likewise."""
    num_bytes: int = 0
    """Of rows and traces."""


class RunFile:
    """A new file, or an old one to go on with, which is this process's until `let_go`.

    Raises:
        OSError, sqlite3.Error: it cannot be written.
        TraceFileError: it is not a run's, another's, or the run of another model.
    """

    def __init__(self, path: Path, header: RunHeader) -> None:
        self.path = path
        self.next_step = 0
        """One after the last step that it holds."""
        self._ladder = Ladder(capacity_for(len(header.parameters)))
        self._claim = Claim.on(path)
        try:
            self._connection = create(path)
        except BaseException:
            self._claim.release()
            raise
        try:
            self._claim.take()
            if not is_same_model(path, header):
                raise TraceFileError(f"{path} holds the run of another model")
            for first, count in self._connection.execute("SELECT first, count FROM rows ORDER BY first"):
                self._ladder.add(first, count)
                self.next_step = first + count
            self.traced = [step for (step,) in self._connection.execute("SELECT step FROM traces ORDER BY step")]
            """Steps whose traces it holds."""
        except BaseException:
            self.let_go()
            raise

    @property
    def is_lost(self) -> bool:
        """Whether it was deleted, or another lies in its place."""
        return self._claim.is_lost()

    def widen(self, header: RunHeader) -> None:
        """There are more parameters than before."""
        self._ladder.capacity = capacity_for(len(header.parameters))

    def write(self, waiting: Waiting) -> None:
        """All of it or nothing; `sqlite3.OperationalError` where another program has locked the file."""
        connection = self._connection
        with _transaction(connection):
            if (header := waiting.texts.get("header")) is not None:
                connection.execute("INSERT OR REPLACE INTO meta VALUES ('header', ?), ('finished', '0')", (header,))
            if (cost := waiting.texts.get("cost")) is not None:
                connection.execute("INSERT OR REPLACE INTO meta VALUES ('cost', ?)", (cost,))
            connection.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?)", map(_columns, waiting.rows))
            events = [(event.step, event.kind.value, event.message) for event in waiting.events]
            connection.executemany("INSERT INTO events VALUES (?, ?, ?)", events)
            if waiting.findings is not None:
                connection.execute("INSERT OR REPLACE INTO findings VALUES (0, ?)", (waiting.findings,))
            connection.executemany("INSERT OR REPLACE INTO traces VALUES (?, ?)", waiting.traces)
            connection.executemany("INSERT OR REPLACE INTO ranks VALUES (?, ?)", waiting.ranks)
            if waiting.ranks:
                self._thin_ranks(len(unpack_ranks(waiting.ranks[-1][1])[0]))
            connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?)", waiting.entries)
            if waiting.entries:
                steps = [step for (step,) in connection.execute("SELECT step FROM entries ORDER BY step")]
                old_entries = [(step,) for step in thinned_entries(steps)]
                connection.executemany("DELETE FROM entries WHERE step = ?", old_entries)
            traced = self._thin_traces([*self.traced, *(step for step, _ in waiting.traces)])
        self.traced = traced
        for row in waiting.rows:
            self._ladder.add(row.first, row.count)
        waiting.rows = []  # they are in the file, whatever becomes of the thinning
        with _transaction(connection):
            self._thin_rows()

    def close(self, *, finished: bool) -> None:
        """Say whether the run came to its end, and let go."""
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES ('finished', ?)", (str(int(finished)),))
        with contextlib.suppress(sqlite3.Error):  # a reader has it open: its log stays beside it
            self._connection.execute("PRAGMA busy_timeout=0")
            self._connection.execute("PRAGMA journal_mode=DELETE")
        self.let_go()

    def wait_for_others(self) -> None:
        """From now on, where another program has locked it."""
        self._connection.execute(f"PRAGMA busy_timeout={int(1000 * CLOSING_S)}")

    def let_go(self) -> None:
        """More than once does no harm."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        self._claim.release()

    def _thin_traces(self, traced: list[int]) -> list[int]:
        if len(traced) <= MOST_TRACES:
            return traced
        old = set(traced[1 : MOST_TRACES // 2 : 2])
        self._connection.executemany("DELETE FROM traces WHERE step = ?", [(step,) for step in old])
        return [step for step in traced if step not in old]

    def _thin_ranks(self, num_ranks: int) -> None:
        if self._connection.execute("SELECT count(*) FROM ranks").fetchone()[0] > most_reports(num_ranks):
            steps = [step for (step,) in self._connection.execute("SELECT step FROM ranks ORDER BY step")]
            old = [(step,) for step in thinned(steps, num_ranks)]
            self._connection.executemany("DELETE FROM ranks WHERE step = ?", old)

    def _thin_rows(self) -> None:
        while (pair := self._ladder.crowded()) is not None:
            query = "SELECT first, count, time_s, nonfinite, packed FROM rows WHERE first IN (?, ?) ORDER BY first"
            joined = pool(*(unpack(*columns) for columns in self._connection.execute(query, pair)))
            self._connection.execute("DELETE FROM rows WHERE first = ?", (pair[1],))
            self._connection.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?)", _columns(joined))
            self._ladder.add(joined.first, joined.count)


def _columns(row: Row) -> tuple[int, int, float, int, bytes]:
    return row.first, row.count, row.time_s, row.nonfinite, row.pack()


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
