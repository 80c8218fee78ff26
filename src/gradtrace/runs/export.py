"""A run as one table for other programs: a line a row of the run and parameter, the step's own numbers beside."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import numpy as np

from gradtrace.errors import InputError, TraceFileError
from gradtrace.records.files import check_output
from gradtrace.records.run import Scalar, Series
from gradtrace.runs.reader import read_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from gradtrace.records.run import Run

PARQUET = b"gradtrace:run-table"
"""Key of the table's metadata by which it is known again."""

LINES_TOGETHER = 2**16
"""Made and written at once."""


def columns() -> list[str]:
    """Names of the table's columns; of pooled rows the smallest and the largest value.

    >>> columns()[9:11], columns()[15:17]
    (['total_gradient_norm_min', 'total_gradient_norm_max'], ['gradient_norm_min', 'gradient_norm_max'])
    """
    totals = [f"total_{name.value}" if name.value.endswith("_norm") else name.value for name in Scalar]
    numbers = [f"{name}_{end}" for name in (*totals, *(name.value for name in Series)) for end in ("min", "max")]
    return ["step", "num_steps", "time_s", "nonfinite", "parameter", *numbers]


def blocks(run: Run) -> Iterator[dict[str, NDArray[Any]]]:
    """The table's columns, some thousand lines at a time: a long run has millions."""
    steps = run.steps
    names = np.array([parameter.name for parameter in run.header.parameters], dtype=np.str_)
    many = max(1, LINES_TOGETHER // max(1, len(names)))
    for start in range(0, len(steps.first) if len(names) else 0, many):
        rows = slice(start, start + many)
        whole = [steps.first, steps.count, steps.time_s, steps.nonfinite]
        scalars = [end[:, i] for i in range(len(Scalar)) for end in (steps.scalars_low, steps.scalars_high)]
        series = [end[rows, i].ravel() for i in range(len(Series)) for end in (steps.series_low, steps.series_high)]
        head, numbers = ([np.repeat(column[rows], len(names)) for column in some] for some in (whole, scalars))
        yield dict(zip(columns(), [*head, np.tile(names, len(steps.first[rows])), *numbers, *series], strict=True))


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
            for block in blocks(run):
                lines = list(zip(*(column.tolist() for column in block.values()), strict=True))
                writer.writerows(lines)
                number += len(lines)
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
        raise InputError("Parquet needs pyarrow: pip install '.[parquet]' (or export as --csv)") from error
    kinds = {name: pyarrow.string() if name == "parameter" else pyarrow.float64() for name in columns()}
    kinds |= {name: pyarrow.int64() for name in ("step", "num_steps", "nonfinite")}
    schema = pyarrow.schema(list(kinds.items()), metadata={PARQUET: b""})
    number = 0
    try:
        with pyarrow.parquet.ParquetWriter(path, schema) as writer:
            for block in blocks(run):
                arrays = [pyarrow.array(column).cast(kinds[name]) for name, column in block.items()]
                writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
                number += len(arrays[0])
    except OSError as error:
        raise TraceFileError(f"cannot write {path}: {error.strerror or error}") from error
    return number


EXPORTS: dict[str, Callable[[Run, Path], int]] = {"csv": to_csv, "parquet": to_parquet}


def export_file(path: Path, kind: str, output: Path | None = None) -> tuple[int, Path]:
    """Write the run in `path` beside it, where no `output` is named; returns (number of lines, where).

    Raises:
        TraceFileError: `path` holds no run, or what lies at the output is not to be overwritten.
    """
    run = read_run(path)
    where = output or path.with_name(f"{path.name.removesuffix('.db')}.{kind}")
    check_output(where, path, ours=(f"{','.join(columns()[:5])},".encode(), PARQUET))
    return EXPORTS[kind](run, where), where
