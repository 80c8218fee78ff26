"""May the files that a command is asked to write be written? Asked before the work, which would be lost with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gradtrace.records.files import PAGES, RECORDS, check_output

if TYPE_CHECKING:
    from collections.abc import Iterable

WEIGHTS = b"gradtrace init"
"""Comment of the archive that a state_dict is saved in."""
BASELINE = "gradtrace_baseline"
"""Key of the file of findings that do not count."""


def check_outputs(*, records: Iterable[str | None] = (), pages: Iterable[str | None] = ()) -> None:
    """Raise `TraceFileError` where one of them cannot be written, or is there and none of ours."""
    for paths, ours in ((records, RECORDS), (pages, PAGES)):
        for path in paths:
            if path is not None:
                check_output(Path(path), ours=ours)


def check_weights(path: str | None) -> None:
    """As `check_outputs`, of weights."""
    if path is not None:
        check_output(Path(path), ours=(WEIGHTS,))


def check_baseline(path: Path) -> None:
    """As `check_outputs`, of a baseline."""
    check_output(path, ours=(f'"{BASELINE}"'.encode(),))
