"""A run's file whose values are anything: one sentence, in bounded time, and the training is never held up."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.report.samples import chain
from tests.runs.test_runs import header, write

import gradtrace
from gradtrace.commands.main import main
from gradtrace.errors import TraceFileError
from gradtrace.records.finding import Finding
from gradtrace.records.run import EventKind, RunEvent
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.report.showing import show_file
from gradtrace.runs.reader import MOST_EVENTS, read_run
from gradtrace.runs.writer import RunWriter

COLUMNS = {
    "meta": ("key", "value"),
    "rows": ("first", "count", "time_s", "nonfinite", "packed"),
    "events": ("step", "kind", "message"),
    "findings": ("number", "packed"),
    "traces": ("step", "packed"),
    "ranks": ("step", "packed"),
    "entries": ("step", "packed"),
}
PLACES = [(table, column) for table, columns in COLUMNS.items() for column in columns]
VALUES = ("NULL", "'text'", "x'00ff80'", "-5", "9223372036854775807", "-9223372036854775808", "1e300", "9e999", "''",
          "'²'", "0", "char(0, 1, 27)", "CAST(x'ff' AS TEXT)", "zeroblob(100000)")  # fmt: skip
ENDLESS = "WITH RECURSIVE c(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM c)"

ENDLESS_ROWS = (
    f"CREATE VIEW rows AS {ENDLESS} "
    "SELECT n AS first, 1 AS count, 0.0 AS time_s, 0 AS nonfinite, x'00' AS packed FROM c"
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "good.db"
    writer = RunWriter(path, header())
    write(writer, range(5))
    writer.event(RunEvent(3, EventKind.SKIPPED, "the scale was halved"))
    writer.findings([Finding(Symptom.EXPLODING, Cause.LEARNING_RATE, ("layers.0",), Severity.WARNING, "m", step=3)])
    writer.trace(3, chain(3, 0.2, 0.5, "sigmoid"))
    writer.ranks(3, np.ones((2, 6)), (0, 1))
    writer.entries(3, np.ones((3, 2), np.float32))
    writer.close()
    return path


def spoil(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def any_value(table: str, column: str, value: str) -> tuple[str, ...]:
    """A table without types and constraints holds it."""
    return (f"CREATE TABLE loose AS SELECT * FROM {table}", f"DROP TABLE {table}",
            f"ALTER TABLE loose RENAME TO {table}", f"UPDATE {table} SET {column} = {value}")  # fmt: skip


@given(st.sampled_from(PLACES), st.sampled_from(VALUES))
@settings(max_examples=60)
def test_any_value_in_any_column_is_one_sentence_or_harmless(
    good: Path, tmp_path_factory: pytest.TempPathFactory, place: tuple[str, str], value: str
) -> None:
    path = tmp_path_factory.mktemp("spoilt") / "a.db"
    shutil.copy(good, path)
    spoil(path, *any_value(*place, value))
    result = CliRunner().invoke(main, ["show", str(path)])
    assert result.exit_code in (0, 2), result.exception
    assert result.exit_code == 0 or result.output.count("\n") == 1


@given(st.integers(0, 4), st.data())
@settings(max_examples=80)
def test_any_bytes_changed_or_cut_off_are_one_sentence_or_harmless(
    good: Path, tmp_path_factory: pytest.TempPathFactory, num_changed: int, data: st.DataObject
) -> None:
    content = bytearray(good.read_bytes())
    for _ in range(num_changed):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if not num_changed:
        del content[data.draw(st.integers(0, len(content))) :]
    path = tmp_path_factory.mktemp("bytes") / "a.db"
    path.write_bytes(content)
    said = ""
    try:
        gradtrace.load(path)
    except TraceFileError as error:
        said = str(error)
    assert "\n" not in said


@pytest.mark.parametrize(
    ("statements", "sentence"),
    [
        (("UPDATE meta SET value = '²' WHERE key = 'version'",), "not of a gradtrace run"),
        ((f"UPDATE meta SET value = '{'[' * 100_000}' WHERE key = 'header'",), "damaged or cut off: it is nested"),
        (("UPDATE rows SET count = 4611686018427387904",), "is no number of steps"),
        (("UPDATE rows SET packed = x'ffffffff0100000000000000' WHERE first = 0",), "not as long as it says"),
        (
            ("DROP TABLE rows", ENDLESS_ROWS),
            "its rows are no table",
        ),
        (("DROP TABLE meta", f"CREATE VIEW meta AS {ENDLESS} SELECT 'a' AS key, 'b' AS value FROM c"), "are no table"),
        (
            ("DROP TABLE traces", "CREATE TABLE traces (step INTEGER, packed AS (zeroblob(1000000000)))"),
            "its traces are computed",
        ),
    ],
)  # fmt: skip
def test_what_would_never_end_is_not_begun(
    good: Path, tmp_path: Path, statements: tuple[str, ...], sentence: str
) -> None:
    shutil.copy(good, tmp_path / "a.db")
    spoil(tmp_path / "a.db", *statements)
    with pytest.raises(TraceFileError, match=sentence):
        read_run(tmp_path / "a.db")


def test_of_a_million_notes_a_few_are_shown(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(good, tmp_path / "a.db")
    spoil(tmp_path / "a.db", f"INSERT INTO events {ENDLESS} SELECT n, 'note', 'number ' || n FROM c LIMIT 100000")
    run = read_run(tmp_path / "a.db")
    assert len(run.events) == MOST_EVENTS
    assert "of 100,001 events the first 10,000 were read" in run.notes
    show_file(tmp_path / "a.db")
    assert capsys.readouterr().out.count("note: ") in range(1, 20)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("command", ["show", "report", "export", "runs", "serve"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, command: str) -> None:
    os.mkfifo(tmp_path / "a.db")
    result = CliRunner().invoke(main, [command, str(tmp_path if command == "runs" else tmp_path / "a.db")])
    assert result.exit_code == (0 if command == "runs" else 2)
    assert command == "runs" or "it is a pipe" in result.output
    assert result.output.count("cannot read") <= 1


# ----------------------------------------------------------------------------------------------------------- written


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["report", "run.db", "-o", "run.db"], "run.db"),
        (["export", "run.csv", "-o", "run.csv"], "run.csv"),
        (["export", "run.db"], "precious.csv"),
        (["report", "run.db"], "precious.html"),
        (["report", "run.db", "-o", "other.db"], "other.db"),
        (["report", "run.db", "-o", "precious.html"], "precious.html"),
        (["export", "run.db", "-o", "precious.py"], "precious.py"),
        (["compare", "run.db", "run.db", "-o", "precious.md"], "precious.md"),
    ],
)
def test_nothing_is_overwritten_that_is_not_ours(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], kept: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(good, arguments[1])
    if kept.startswith("precious"):
        kept = kept if kept in arguments else f"run{Path(kept).suffix}"
        Path(kept).write_text("precious")
    elif not Path(kept).exists():
        shutil.copy(good, kept)
    before = Path(kept).read_bytes()
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "name another file" in result.output
    assert Path(kept).read_bytes() == before


def test_a_run_of_any_name_is_exported_beside_itself(good: Path, tmp_path: Path) -> None:
    shutil.copy(good, tmp_path / "run.csv")
    assert CliRunner().invoke(main, ["export", str(tmp_path / "run.csv")]).exit_code == 0
    assert (tmp_path / "run.csv").read_bytes() == good.read_bytes()
    assert (tmp_path / "run.csv.csv").read_text().startswith("step,")


def test_what_is_ours_is_written_anew(good: Path, tmp_path: Path) -> None:
    shutil.copy(good, tmp_path / "run.db")
    for _ in range(2):
        for command in ("report", "export"):
            result = CliRunner().invoke(main, [command, str(tmp_path / "run.db")])
            assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {"run.db", "run.html", "run.csv"}


# ----------------------------------------------------------------------------------------------------------- writing


def test_a_file_has_one_writer(tmp_path: Path) -> None:
    first = RunWriter(tmp_path / "a.db", header())
    write(first, range(5))
    first.flush()
    with pytest.warns(RuntimeWarning, match="being written by another watch of this process.*in memory only"):
        second = RunWriter(tmp_path / "a.db", header())
    write(second, range(5), loss=9.0)
    second.close()
    first.close()
    assert set(read_run(tmp_path / "a.db").steps.scalars_low[:, 0]) == {1.0}
    RunWriter(tmp_path / "a.db", header()).close()  # the first has let go of it


def test_nor_does_another_process_write_it(tmp_path: Path) -> None:
    first = RunWriter(tmp_path / "a.db", header())
    program = f"""
import warnings
from tests.runs.test_runs import header
from gradtrace.runs.writer import RunWriter
warnings.simplefilter("always")
RunWriter({str(tmp_path / "a.db")!r}, header()).close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first.close()
    assert "is being written by another process" in done.stderr


def test_a_deleted_file_is_begun_anew_with_what_memory_holds(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "a.db", header())
    write(writer, range(5))
    writer.flush()
    for file in tmp_path.iterdir():
        file.unlink()
    write(writer, range(5, 8))
    with pytest.warns(RuntimeWarning, match="was deleted while it was written"):
        writer.flush()
    writer.close()
    run = read_run(tmp_path / "a.db")
    assert run.steps.first.tolist() == list(range(8))
    assert any("was deleted" in note for note in run.notes)


def test_a_file_in_its_place_is_left_alone(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "a.db", header())
    (tmp_path / "a.db").rename(tmp_path / "b.db")
    (tmp_path / "a.db").write_text("another's")
    with pytest.warns(RuntimeWarning, match="was replaced by another file"):
        write(writer, range(5))
    writer.close()
    assert (tmp_path / "a.db").read_text() == "another's"


def test_a_locked_file_holds_up_no_step_and_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = RunWriter(tmp_path / "a.db", header(), flush_every_s=0.0)
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            write(writer, range(3))
            writer.findings([])
        assert len(read_run(tmp_path / "a.db").steps.first) == 0
        other.execute("ROLLBACK")
    write(writer, range(3, 5))
    writer.close()
    assert read_run(tmp_path / "a.db").steps.first.tolist() == list(range(5))
    assert waited == []
