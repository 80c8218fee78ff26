"""What is in a file that gradtrace wrote? A run's is a database, every other record is gzipped JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gradtrace.records import storage
from gradtrace.records.files import SQLITE, starts_with
from gradtrace.runs.reader import read_run

if TYPE_CHECKING:
    from gradtrace.records.finding import Diagnosis
    from gradtrace.records.prediction import Prediction
    from gradtrace.records.repair import Repair
    from gradtrace.records.run import Run
    from gradtrace.records.time import ThroughTime
    from gradtrace.records.trace import Trace

    Record = Trace | Diagnosis | Prediction | ThroughTime | Repair | Run


def load(path: str | Path) -> Record:
    """Read a trace, diagnosis, repair, prediction, record through time, or run; neither model nor torch is needed.

    Raises:
        TraceFileError: there is no such file, it is cut off, from a newer version, or something else: it says what.
    """
    path = Path(path)
    return read_run(path) if starts_with(path, SQLITE) else storage.load(path)
