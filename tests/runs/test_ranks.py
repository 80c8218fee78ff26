"""What each rank says of itself, in the run's file: kept, bounded, and nothing in files that are older."""

from __future__ import annotations

import contextlib
import sqlite3

import numpy as np
import pytest
from tests.runs.test_runs import header, write

from gradtrace.errors import TraceFileError
from gradtrace.runs import ranks
from gradtrace.runs.reader import read_run
from gradtrace.runs.writer import RunWriter


def said(step, num_ranks=3):
    return np.array([[step + rank, 0.5, rank == 1 and step == 2, 3.0] for rank in range(num_ranks)], np.float64)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "run.db"
    writer = RunWriter(path, header())
    write(writer, range(5))
    for step in range(4):
        writer.ranks(step, said(step))
    assert writer.snapshot().ranks.steps.tolist() == [0, 1, 2, 3]
    writer.close()
    return path


def test_it_is_read_as_it_was_written(path):
    found = read_run(path).ranks
    assert found.steps.tolist() == [0, 1, 2, 3]
    assert found.loss[2].tolist() == [2.0, 3.0, 4.0]
    assert (found.forward_s == 0.5).all()
    assert (found.gradient == 3.0).all()
    assert np.argwhere(found.nonfinite).tolist() == [[2, 1]]
    assert repr(found) == "<RunRanks: 4 reports of 3 ranks>"


def test_layers_come_back_under_their_columns(path):
    writer = RunWriter(path, header())
    layers = np.arange(6.0).reshape(3, 2)
    writer.ranks(9, np.hstack([said(9), layers]), (0, 1))
    writer.ranks(10, np.hstack([said(10), layers + 1.0]), (0, 1))
    in_memory = writer.snapshot().ranks
    writer.close()
    found = read_run(path).ranks
    assert found.layers is not None
    assert found.columns == in_memory.columns == (0, 1)
    assert np.isnan(found.layers[:4]).all()
    np.testing.assert_array_equal(found.layers[4:], [layers, layers + 1.0])
    assert (found.gradient == 3.0).all()


def test_a_file_of_an_earlier_version_has_none(path):
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE ranks")
    assert read_run(path).ranks is None
    writer = RunWriter(path, header())  # and may go on
    writer.ranks(7, said(7))
    writer.close()
    assert read_run(path).ranks.steps.tolist() == [7]


def test_a_run_of_one_process_has_none(tmp_path):
    writer = RunWriter(tmp_path / "run.db", header())
    write(writer, range(3))
    assert writer.snapshot().ranks is None
    writer.close()
    assert read_run(tmp_path / "run.db").ranks is None


def test_old_reports_go(path, monkeypatch):
    monkeypatch.setattr(ranks, "FEWEST", 8)
    monkeypatch.setattr(ranks, "MOST_BYTES", 1)
    writer = RunWriter(path, header())
    for step in range(4, 40):
        writer.ranks(step, said(step))
        writer.flush()
    kept = writer.snapshot().ranks.steps
    writer.close()
    found = read_run(path).ranks.steps
    assert len(kept) <= 8
    assert len(found) <= 8
    assert (found[0], found[-1], kept[-1]) == (0, 39, 39)


def test_a_world_of_another_size_goes_on(path):
    writer = RunWriter(path, header())
    writer.ranks(9, said(9, 2))
    writer.close()
    found = read_run(path).ranks
    assert (found.steps.tolist(), found.loss.shape) == ([9], (1, 2))


@pytest.mark.parametrize("value", ["NULL", "x'00'", "'text'", "5", "x'ffffffff'", "zeroblob(100000)"])
def test_what_is_damaged_is_one_sentence(path, value):
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE loose AS SELECT * FROM ranks")
        connection.execute("DROP TABLE ranks")
        connection.execute("ALTER TABLE loose RENAME TO ranks")
        connection.execute(f"UPDATE ranks SET packed = {value} WHERE step = 1")
    with pytest.raises(TraceFileError, match="is damaged or cut off"):
        read_run(path)
