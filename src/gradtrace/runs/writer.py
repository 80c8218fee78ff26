"""Writes a run while it trains, and never lets the training know: what goes wrong is one warning, then memory serves.

What comes waits in memory and goes to the file together every two seconds: a kill at any moment loses at most that. A
file that another program has locked is tried again at the next writing, and what waits until then is bounded. The last
rows stay in memory, pooled, so that the run can be looked at without reading the file; and where the file was deleted
meanwhile, they begin it anew.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import sqlite3
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

import numpy as np

from gradtrace.errors import TraceFileError
from gradtrace.records.codec import encode
from gradtrace.records.finding import Diagnosis
from gradtrace.records.run import EventKind, Run, RunEvent, RunHeader, Scalar
from gradtrace.records.storage import pack
from gradtrace.runs.database import is_busy, remote_filesystem
from gradtrace.runs.entries import pack_entries, stack_entries, thinned_entries
from gradtrace.runs.ladder import Ladder, capacity_for
from gradtrace.runs.ranks import Said, pack_ranks, stack_ranks, thinned
from gradtrace.runs.row import Row, pool, stack
from gradtrace.runs.run_file import RunFile, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from gradtrace.records.finding import Finding
    from gradtrace.records.run import WatchCost
    from gradtrace.records.trace import Trace

P = ParamSpec("P")

MEMORY_BYTES = 16 * 2**20
"""What the pooled rows may take that are kept in memory."""

WAITING_BYTES = 4 * 2**20
"""Rows that wait go to the file before their time, if they are more: what is written at once stays in the log."""

_LOSS = list(Scalar).index(Scalar.LOSS)

MOST_WAITING_BYTES = 64 * 2**20
"""Rows and traces that wait for a locked file; beyond, the file is given up."""

MOST_EVENTS = 10_000
"""Events that a run keeps, the first ones."""

IN_MEMORY = "the run is kept in memory only"
"""What the note of a run ends in whose file could not be written (on)."""


def warn(sentence: str) -> None:
    """What a user must know at once, as a warning of Python's."""
    with contextlib.suppress(RuntimeWarning):  # where warnings are errors
        warnings.warn(f"gradtrace: {sentence}", RuntimeWarning, stacklevel=4)


def _safely(method: Callable[P, None]) -> Callable[P, None]:
    """In the process that began the run, one thread at a time; a fault ends the file, not the training."""

    @functools.wraps(method)
    def safe(*args: P.args, **kwargs: P.kwargs) -> None:
        writer = args[0]
        assert isinstance(writer, RunWriter)
        if os.getpid() != writer.owner:
            return
        with writer.lock:
            try:
                method(*args, **kwargs)
            except TraceFileError as error:
                writer.give_up(str(error))
            except (sqlite3.Error, OSError, ValueError) as error:
                writer.give_up(f"cannot write {writer.path}: {error}")

    return safe


class RunWriter:
    """One run. Every method may be called at any time, from any thread; none raises, and a forked child writes nothing.

    Args:
        path: the file; None: in memory only.
        header: what is known of the run.
        flush_every_s: seconds between two writings.
        warn: takes the one sentence that is said when the file cannot be written.
    """

    def __init__(
        self,
        path: str | Path | None,
        header: RunHeader,
        *,
        flush_every_s: float = 2.0,
        warn: Callable[[str], None] = warn,
    ) -> None:
        self.path = Path(path).absolute() if path is not None else None
        self._header = header
        self._flush_every_s = flush_every_s
        self._warn = warn
        self.lock = threading.RLock()
        self.owner = os.getpid()
        self._waiting = Waiting()
        self._rows: dict[int, Row] = {}
        self._memory = Ladder(_memory_rows(header))
        self._events: list[RunEvent] = []
        self._findings: tuple[Finding, ...] = ()
        self._ranks: dict[int, Said] = {}
        self._entries: dict[int, NDArray[np.float32]] = {}
        self._samples: list[int] = []
        self._notes: tuple[str, ...] = ()
        self._cost: WatchCost | None = None
        self.finished = False
        """Whether the training has come to its end: the last judgement is of all of it."""
        self._file: RunFile | None = None
        self._last_flush = -math.inf  # the first step is written at once
        self.next_step = 0
        """One after the last step that the file held already."""
        if self.path is not None:
            self._open(self.path)

    # ------------------------------------------------------------------------------------------------------- what comes

    @_safely
    def header(self, header: RunHeader) -> None:
        """The header, when more is known; parameters are only added at its end."""
        self._header = header
        self._memory.capacity = _memory_rows(header)
        if self._file is not None:
            self._file.widen(header)
            self._tell_header()

    @_safely
    def append(
        self, step: int, time_s: float, scalars: Sequence[float | None], series: NDArray[np.float32], *, nonfinite: bool
    ) -> None:
        """One step: `scalars` in the order of `Scalar`, None: not known; `series` [len(Series), parameters known]."""
        values, table = np.array(scalars, np.float64), np.array(series, np.float32)  # None becomes NaN
        is_nan = scalars[_LOSS] is not None and math.isnan(values[_LOSS])
        row = Row(step, 1, time_s, int(nonfinite or is_nan), values, values, table, table, int(is_nan))
        self._waiting.rows.append(row)
        self._waiting.num_bytes += table.nbytes
        self._rows[step] = row
        self._memory.add(step)
        while (pair := self._memory.crowded()) is not None:
            joined = pool(*(self._rows.pop(first) for first in pair))
            self._rows[joined.first] = joined
            self._memory.add(joined.first, joined.count)
        if self._waiting.num_bytes > WAITING_BYTES or time.monotonic() - self._last_flush > self._flush_every_s:
            self.flush()

    @_safely
    def event(self, event: RunEvent) -> None:
        """Something that happened."""
        if len(self._events) >= MOST_EVENTS:
            return
        self._events.append(event)
        self._waiting.events.append(event)

    @_safely
    def note(self, step: int, sentence: str) -> None:
        """What a reader must know of the whole run; the same sentence is kept once."""
        if sentence not in self._notes:
            self._notes += (sentence,)
            self.event(RunEvent(step, EventKind.NOTE, sentence))

    @_safely
    def trace(self, step: int, trace: Trace) -> None:
        """A whole trace."""
        self._samples.append(step)
        if self._file is None:
            return
        packed = pack(trace)
        self._waiting.traces.append((step, packed))
        self._waiting.num_bytes += len(packed)
        self.flush()

    @_safely
    def ranks(self, step: int, said: NDArray[np.float64], layers: tuple[int, ...] = ()) -> None:
        """What each rank says of itself at `step`: [ranks, len(ranks.SAID) + layers], these of so many columns."""
        self._ranks[step] = said, layers
        for old in thinned(list(self._ranks), len(said)):
            del self._ranks[old]
        self._waiting.ranks.append((step, pack_ranks((said, layers))))
        self._waiting.num_bytes += said.nbytes

    @_safely
    def entries(self, step: int, table: NDArray[np.float32]) -> None:
        """What the entries of gradients are like at `step`: [entries.NUM, parameters]."""
        self._entries[step] = table
        for old in thinned_entries(list(self._entries)):
            del self._entries[old]
        self._waiting.entries.append((step, pack_entries(table)))
        self._waiting.num_bytes += table.nbytes

    @_safely
    def cost(self, cost: WatchCost) -> None:
        """What watching has taken so far."""
        self._cost = cost
        self._tell_cost()

    @_safely
    def findings(self, findings: Sequence[Finding]) -> None:
        """The latest judgement, in place of the one before."""
        self._findings = tuple(findings)
        self._tell_findings()

    # ------------------------------------------------------------------------------------------------------ what goes

    @_safely
    def flush(self) -> None:
        """Write what waits; where another program has locked the file, the next time."""
        self._last_flush = time.monotonic()
        if self._file is not None and self._file.is_lost:
            self._begin_anew()
        if self._file is None:
            self._waiting = Waiting()
            return
        try:
            self._file.write(self._waiting)
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise
            if self._waiting.num_bytes > MOST_WAITING_BYTES:
                self.give_up(f"{self.path} has been locked by another program for too long")
            return
        self._samples, self._waiting = list(self._file.traced), Waiting()

    def snapshot(self) -> Run:
        """The run as it is in memory: old steps at a lower resolution than in the file."""
        with self.lock:
            rows = [self._rows[first] for first in sorted(self._rows)]
            return Run(
                header=self._header,
                steps=stack(rows, len(self._header.parameters)),
                events=tuple(self._events),
                findings=self._findings,
                samples=tuple(self._samples),
                finished=self.finished,
                notes=self._notes,
                cost=self._cost,
                ranks=stack_ranks(self._ranks.items()),
                entries=stack_entries(self._entries.items(), len(self._header.parameters)),
            )

    @_safely
    def close(self, *, finished: bool = True) -> None:
        """Write the rest and let go of the file."""
        self.finished = finished
        if self._file is not None:
            self._file.wait_for_others()
        self.flush()
        if self._file is not None:
            self._file.close(finished=finished)
            self._file = None

    # ------------------------------------------------------------------------------------------------------- the file

    @_safely
    def _open(self, path: Path) -> None:
        kind = remote_filesystem(path)
        if kind is not None:
            self.give_up(f"{path} lies on a network file system ({kind}), where a run's file is not safe")
            return
        self._file = RunFile(path, self._header)
        self.next_step = max(self.next_step, self._file.next_step)
        self._samples = list(self._file.traced)
        self._tell_header()
        self._file.write(self._waiting)
        self._samples, self._waiting = list(self._file.traced), Waiting()

    def _begin_anew(self) -> None:
        """The file was deleted, or another lies in its place: what memory holds goes into a new one."""
        assert self.path is not None
        self._let_go()
        if self.path.exists():
            self.give_up(f"{self.path} was replaced by another file while it was written")
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._waiting.rows = [self._rows[first] for first in sorted(self._rows)]
        self._waiting.events = list(self._events)
        self._waiting.ranks = [(step, pack_ranks(said)) for step, said in self._ranks.items()]
        self._waiting.entries = [(step, pack_entries(table)) for step, table in self._entries.items()]
        step = self._waiting.rows[-1].first if self._waiting.rows else 0
        self._open(self.path)
        if self._file is not None:
            self._tell_findings()
            self._tell_cost()
            sentence = f"{self.path} was deleted while it was written: it was begun anew with what memory held"
            self._warn(sentence)
            self.note(step, sentence)

    def _tell_header(self) -> None:
        if self._file is not None:
            self._waiting.texts["header"] = json.dumps(encode(self._header), allow_nan=False)

    def _tell_cost(self) -> None:
        if self._file is not None and self._cost is not None:
            self._waiting.texts["cost"] = json.dumps(encode(self._cost), allow_nan=False)

    def _tell_findings(self) -> None:
        if self._file is not None:
            self._waiting.findings = pack(Diagnosis(self._findings))

    def _let_go(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.let_go()

    def give_up(self, why: str) -> None:
        """Go on in memory, and say why once."""
        self._let_go()
        self._waiting = Waiting()
        sentence = f"{why}; {IN_MEMORY}"
        self._notes += (sentence,)
        self._warn(sentence)


def _memory_rows(header: RunHeader) -> int:
    """To a rung: each row is an object with four arrays, which takes a kilobyte by itself."""
    return min(512, capacity_for(len(header.parameters), MEMORY_BYTES))
