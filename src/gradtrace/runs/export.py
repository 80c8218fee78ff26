"""A run as one table for other programs: a line a row of the run and parameter, the step's own numbers beside."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

from gradtrace.errors import InputError, TraceFileError
from gradtrace.records.run import Scalar, Series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gradtrace.records.run import Run


def columns() -> list[str]:
    """Names of the table's columns; of pooled rows the smallest and the largest value."""
    numbers = [f"{name.value}_{end}" for name in (*Scalar, *Series) for end in ("min", "max")]
    return ["step", "num_steps", "time_s", "nonfinite", "parameter", *numbers]


def lines(run: Run) -> Iterator[list[Any]]:
    """The table's lines."""
    steps = run.steps
    names = [parameter.name for parameter in run.header.parameters]
    for row in range(len(steps.first)):
        head = [int(steps.first[row]), int(steps.count[row]), float(steps.time_s[row]), int(steps.nonfinite[row])]
        whole = [float(v) for pair in zip(steps.scalars_low[row], steps.scalars_high[row], strict=True) for v in pair]
        for i, name in enumerate(names):
            pairs = zip(steps.series_low[row, :, i], steps.series_high[row, :, i], strict=True)
            yield [*head, name, *whole, *(float(v) for pair in pairs for v in pair)]


def to_csv(run: Run, path: Path) -> int:
    """Write comma-separated text; returns the number of lines.

    Raises:
        TraceFileError: the file cannot be written.
    """
    number = 0
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns())
            for number, line in enumerate(lines(run), 1):  # noqa: B007 - the last one is the count
                writer.writerow(line)
    except OSError as error:
        raise TraceFileError(f"cannot write {path}: {error.strerror or error}") from error
    return number


def to_parquet(run: Run, path: Path) -> int:
    """Write Parquet; returns the number of lines.

    Raises:
        InputError: pyarrow is not installed.
        TraceFileError: the file cannot be written.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError("Parquet needs pyarrow: pip install pyarrow (or export as --csv)") from error
    table = list(lines(run))
    arrays = list(zip(*table, strict=True)) or [() for _ in columns()]
    try:
        pyarrow.parquet.write_table(pyarrow.table(dict(zip(columns(), arrays, strict=True))), path)
    except OSError as error:
        raise TraceFileError(f"cannot write {path}: {error}") from error
    return len(table)


EXPORTS: dict[str, Callable[[Run, Path], int]] = {"csv": to_csv, "parquet": to_parquet}
