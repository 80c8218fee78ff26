"""What gradients' entries were like comes back as it was written, of the latest steps at all."""

from __future__ import annotations

import contextlib
import sqlite3

import numpy as np
from tests.runs.test_runs import header, write

from gradtrace.runs.entries import MOST_STEPS
from gradtrace.runs.reader import read_run
from gradtrace.runs.writer import RunWriter


def table(step, num_parameters):
    return np.array([[float(step)] * num_parameters, [0.5] * num_parameters, [np.nan] * num_parameters], np.float32)


def test_they_are_read_as_they_were_written_the_older_the_fewer(tmp_path):
    path = tmp_path / "run.db"
    writer = RunWriter(path, header())
    write(writer, range(5))
    num = len(header().parameters)
    for step in range(3 * MOST_STEPS):
        writer.entries(step, table(step, num - 1))  # one has joined since
        writer.flush()
    in_memory = writer.snapshot().entries
    writer.close()
    found = read_run(path).entries
    for one in (in_memory, found):
        assert len(one.steps) <= MOST_STEPS
        assert (one.steps[0], one.steps[-1]) == (0, 3 * MOST_STEPS - 1)
        assert (one.largest[:, 0] == one.steps).all()
        assert (one.zero_frac[:, : num - 1] == 0.5).all()
        assert np.isnan(one.largest[:, -1]).all()
        assert np.isnan(one.nonfinite_frac).all()
    assert repr(found) == f"<RunEntries: {len(found.steps)} steps of {num} parameters>"


def test_a_file_of_an_earlier_version_has_none_and_goes_on(tmp_path):
    path = tmp_path / "run.db"
    RunWriter(path, header()).close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE entries")
    assert read_run(path).entries is None
    writer = RunWriter(path, header())
    writer.entries(7, table(7, 1))
    writer.close()
    assert read_run(path).entries.steps.tolist() == [7]
