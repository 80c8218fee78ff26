"""Files that are not what they should be: each one sentence, never harmed, and never the end of a training."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.runs.test_runs import header, write

from gradtrace.commands.main import main
from gradtrace.errors import TraceFileError
from gradtrace.records.run import WatchedParameter
from gradtrace.runs import database
from gradtrace.runs.reader import read_run
from gradtrace.runs.writer import RunWriter

NEWER = "UPDATE meta SET value = '99' WHERE key = 'version'"

DAMAGE = {
    "a row of two bytes": ("UPDATE rows SET packed = x'0102' WHERE first = 3", "damaged or cut off"),
    "half a row": ("UPDATE rows SET packed = substr(packed, 1, 40) WHERE first = 3", "damaged or cut off"),
    "no header": ("DELETE FROM meta WHERE key = 'header'", "damaged or cut off: it has no header"),
    "half a header": ("UPDATE meta SET value = substr(value, 1, 20) WHERE key = 'header'", "damaged or cut off"),
    "findings of noise": ("INSERT OR REPLACE INTO findings VALUES (0, x'00ff')", "damaged or cut off: a record"),
    "an unknown event": ("INSERT INTO events VALUES (3, 'invented', '')", "damaged or cut off"),
    "no events": ("DROP TABLE events", "damaged or cut off"),
    "newer": (NEWER, "newer gradtrace"),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    writer = RunWriter(tmp_path / "a.db", header())
    write(writer, range(5))
    writer.close()
    return tmp_path / "a.db"


def change(path: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


@pytest.mark.parametrize("command", ["show", "export", "compare", "report", "serve"])
@pytest.mark.parametrize("name", DAMAGE)
def test_every_command_says_one_sentence_of_a_damaged_file(name: str, command: str, path: Path) -> None:
    statement, sentence = DAMAGE[name]
    change(path, statement)
    arguments = [command, str(path), *([str(path)] if command == "compare" else [])]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert sentence in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("command", ["show", "export", "report"])
def test_a_folder_is_one_sentence_too(command: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [command, str(tmp_path)])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1


def test_a_damaged_run_does_not_hide_the_others(path: Path) -> None:
    shutil.copy(path, path.with_name("b.db"))
    change(path, DAMAGE["no events"][0])
    result = CliRunner().invoke(main, ["runs", str(path.parent)])
    assert result.exit_code == 0
    assert "b.db" in result.stdout
    assert "a.db is damaged or cut off" in result.stderr


def stranger(path: Path) -> None:
    path.unlink()
    change(path, "CREATE TABLE accounts (name)")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:6000])


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (stranger, "a database, but not of a gradtrace run"),
        (lambda path: change(path, NEWER), "newer gradtrace"),
        (lambda path: path.write_text("my notes, much longer than a header"), "a.db"),
        (cut, "a.db"),
    ],
)
def test_a_file_that_is_not_ours_is_not_written_to(spoil: Callable[[Path], object], sentence: str, path: Path) -> None:
    spoil(path)
    before = path.read_bytes()
    with pytest.warns(RuntimeWarning, match=f"{sentence}.*kept in memory only") as caught:
        writer = RunWriter(path, header())
    write(writer, range(5))
    writer.close()
    assert len(caught) == 1
    assert path.read_bytes() == before
    assert len(writer.snapshot().steps.first) == 5


def test_the_run_of_another_model_is_not_gone_on_with(path: Path) -> None:
    other = dataclasses.replace(header(), parameters=(WatchedParameter("encoder.weight", (2, 2), "float32", 0),))
    with pytest.warns(RuntimeWarning, match="holds the run of another model"):
        RunWriter(path, other).close()
    assert read_run(path).header == header()
    longer = dataclasses.replace(header(), parameters=(*header().parameters, *other.parameters))
    RunWriter(path, longer).close()  # the same, of which more was found
    assert read_run(path).header == longer


def test_a_finished_run_is_read_where_nothing_can_be_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite cannot make its shared memory in a read-only folder, and says so at the first query."""
    connect = sqlite3.connect

    class ReadOnlyFolder(sqlite3.Connection):
        def execute(self, *arguments: object) -> sqlite3.Cursor:  # type: ignore[override]
            raise sqlite3.OperationalError("unable to open database file")

    def refusing(name: str, **options: object) -> sqlite3.Connection:
        if "immutable" not in name:
            options["factory"] = ReadOnlyFolder
        return connect(name, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(database.sqlite3, "connect", refusing)
    assert len(read_run(path).steps.first) == 5
    path.with_name("a.db-wal").write_bytes(b"not yet in the file")
    with pytest.raises(TraceFileError, match="cannot open"):
        read_run(path)
