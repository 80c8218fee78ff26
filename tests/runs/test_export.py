"""A run as a table for other programs: every number of it, under its name."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from gradtrace.errors import TraceFileError
from gradtrace.records.run import Run, RunHeader, Scalar, Series, WatchedParameter
from gradtrace.runs.export import EXPORTS, columns, export_file, to_csv
from gradtrace.runs.writer import RunWriter

NAMES = ("first.weight", "last, with a comma")


def a_run(num_steps: int = 7) -> Run:
    writer = RunWriter(None, RunHeader("x", 0.0, parameters=tuple(WatchedParameter(n, (2,), "float32") for n in NAMES)))
    draw = np.random.default_rng(0)
    for step in range(num_steps):
        scalars = [float(number) for number in draw.normal(size=len(Scalar))]
        series = draw.normal(size=(len(Series), len(NAMES))).astype(np.float32)
        series[1, 1] = np.nan
        writer.append(step, 0.5 * step, scalars, series, nonfinite=step == 3)
    return writer.snapshot()


def read_csv(path: Path) -> list[dict[str, object]]:
    with path.open(newline="") as file:
        return [{k: v if k == "parameter" else float(v) for k, v in line.items()} for line in csv.DictReader(file)]


def read_parquet(path: Path) -> list[dict[str, object]]:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: pip install pyarrow")
    rows: list[dict[str, object]] = parquet.read_table(path).to_pylist()
    return rows


@pytest.mark.parametrize(("kind", "read"), [("csv", read_csv), ("parquet", read_parquet)])
@pytest.mark.parametrize("together", [3, 2**16])
def test_every_number_comes_back(kind, read, together, tmp_path, monkeypatch) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install pyarrow")
    monkeypatch.setattr("gradtrace.runs.export.LINES_TOGETHER", together)
    run, path = a_run(), tmp_path / f"run.{kind}"
    assert EXPORTS[kind](run, path) == 14
    table = read(path)
    assert list(table[0]) == columns()
    assert len(set(columns())) == len(columns())
    for number, line in enumerate(table):
        row, i = divmod(number, 2)
        assert (line["step"], line["num_steps"], line["time_s"]) == (row, 1, 0.5 * row)
        assert (line["parameter"], line["nonfinite"]) == (NAMES[i], int(row == 3))
        for place in range(len(Scalar)):
            assert line[columns()[6 + 2 * place]] == run.steps.scalars_high[row, place]
        for place, one in enumerate(Series):
            np.testing.assert_equal(line[f"{one.value}_min"], float(run.steps.series_low[row, place, i]))


@pytest.mark.parametrize("kind", EXPORTS)
def test_a_run_without_a_step_is_a_table_without_a_line(kind, tmp_path) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install pyarrow")
    assert EXPORTS[kind](a_run(0), tmp_path / "run") == 0
    assert (tmp_path / "run").exists()


def test_where_nothing_can_be_written_one_sentence_says_so(tmp_path) -> None:
    with pytest.raises(TraceFileError, match=r"cannot write .*: No such file or directory"):
        to_csv(a_run(), tmp_path / "no" / "folder.csv")


@pytest.mark.parametrize("kind", EXPORTS)
def test_only_a_table_of_ours_is_written_anew(kind, tmp_path) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install pyarrow")
    source, where = tmp_path / "run.db", tmp_path / "table"
    RunWriter(source, RunHeader("", 0.0)).close()
    assert [export_file(source, kind, where) for _ in range(2)] == [(0, where)] * 2
    if kind == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"mine": [1.0]}), where)
    else:
        where.write_text("mine\n1\n")
    before = where.read_bytes()
    with pytest.raises(TraceFileError, match="none of gradtrace's"):
        export_file(source, kind, where)
    assert where.read_bytes() == before
