"""A run's file: what is written comes back, spikes survive, and nothing that happens to the file stops the training."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradtrace
from gradtrace.errors import TraceFileError
from gradtrace.records.finding import Finding
from gradtrace.records.run import EventKind, RunEvent, RunHeader, Scalar, Series, WatchedParameter
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.runs.database import remote_filesystem
from gradtrace.runs.ladder import Ladder, capacity_for
from gradtrace.runs.reader import is_run, list_runs, read_run, read_trace
from gradtrace.runs.row import Row, pool
from gradtrace.runs.writer import WAITING_BYTES, RunWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

NUM_PARAMETERS = 3


def header(num_parameters: int = NUM_PARAMETERS) -> RunHeader:
    names = (WatchedParameter(f"layers.{i}.weight", (4, 4), "float32", 0) for i in range(num_parameters))
    return RunHeader("0" * 32, 1.7e9, ("train.py", "--lr", "0.1"), "train", tuple(names))


def write(writer: RunWriter, steps: range, loss: float = 1.0, num_parameters: int = NUM_PARAMETERS) -> None:
    for step in steps:
        series = np.full((len(Series), num_parameters), float(step), np.float32)
        writer.append(step, 0.1 * step, [loss, 0.1, 2.0, 1.0, np.nan], series, nonfinite=False)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "a.db", header())
    write(writer, range(20))
    writer.event(RunEvent(3, EventKind.SKIPPED, "the scaler halved"))
    finding = Finding(Symptom.EXPLODING, Cause.LEARNING_RATE, ("layers.0",), Severity.WARNING, "since step 3", step=3)
    writer.findings([finding])
    writer.note(4, "the model is compiled")
    writer.close()
    run = read_run(tmp_path / "a.db")
    assert run.header == header()
    assert run.steps.first.tolist() == list(range(20))
    assert run.steps.scalar(Scalar.LOSS)[0].tolist() == [1.0] * 20
    assert np.isnan(run.steps.scalar(Scalar.LOSS_SCALE)[1]).all()
    assert run.steps.series(Series.UPDATE_RATIO)[1][7].tolist() == [7.0] * NUM_PARAMETERS
    assert [(event.step, event.kind) for event in run.events] == [(3, EventKind.SKIPPED), (4, EventKind.NOTE)]
    assert (run.findings, run.finished, run.notes) == ((finding,), True, ("the model is compiled",))


def test_a_trace_comes_back(tmp_path: Path) -> None:
    import torch

    trace = gradtrace.trace(torch.nn.Linear(2, 2), lambda model, x: model(x).sum(), torch.ones(1, 2))
    writer = RunWriter(tmp_path / "a.db", header())
    writer.trace(5, trace)
    writer.close()
    assert read_run(tmp_path / "a.db").samples == (5,)
    assert read_trace(tmp_path / "a.db", 5) == trace
    with pytest.raises(TraceFileError, match="holds no trace of step 6"):
        read_trace(tmp_path / "a.db", 6)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=300), st.integers(2, 8))
@settings(max_examples=50, deadline=None)
def test_pooled_rows_cover_every_step_and_keep_every_spike(values: list[float], capacity: int) -> None:
    ladder, rows = Ladder(capacity), {}
    for step, value in enumerate(values):
        scalars = np.full(len(Scalar), value)
        table = np.full((len(Series), 1), value, np.float32)
        rows[step] = Row(step, 1, float(step), 0, scalars, scalars, table, table)
        ladder.add(step)
        while (pair := ladder.crowded()) is not None:
            joined = pool(*(rows.pop(first) for first in pair))
            rows[joined.first] = joined
            ladder.add(joined.first, joined.count)
    ordered = [rows[first] for first in sorted(rows)]
    assert [row.first for row in ordered] == np.cumsum([0, *(row.count for row in ordered)])[:-1].tolist()
    assert sum(row.count for row in ordered) == len(values)
    for row in ordered:
        part = values[row.first : row.first + row.count]
        assert (row.scalars_low[0], row.scalars_high[0]) == (min(part), max(part))
    assert len(ordered) <= (capacity + 1) * (1 + np.log2(len(values) / capacity + 1))


def test_a_million_steps_of_a_thousand_layers_stay_under_200_megabytes() -> None:
    capacity = capacity_for(1000)
    ladder = Ladder(capacity)
    for step in range(1_000_000):
        ladder.add(step)
        while (pair := ladder.crowded()) is not None:
            ladder.add(pair[0], 2 * (pair[1] - pair[0]))
    assert len(ladder) * (2 * (12 * 1000 + 40) + 200) < 200e6


def test_rows_that_are_many_do_not_wait_and_the_log_does_not_keep_them(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "a.db", header(1000), flush_every_s=1e9)
    write(writer, range(2000), num_parameters=1000)
    rows = read_run(tmp_path / "a.db").steps
    assert 2000 - (rows.first[-1] + rows.count[-1]) <= WAITING_BYTES // 12_000
    size = (tmp_path / "a.db-wal").stat().st_size
    writer.close()
    assert size <= WAITING_BYTES * 5, (
        "one writing with what it pools: each of its rows, and twice as large a pooled one"
    )


def test_parameters_found_later_are_columns_at_the_end(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "a.db", header(2))
    write(writer, range(3), num_parameters=2)
    writer.header(header(3))
    write(writer, range(3, 5), num_parameters=3)
    writer.close()
    low, _ = read_run(tmp_path / "a.db").steps.series(Series.GRADIENT_NORM)
    assert np.isnan(low[:3, 2]).all()
    assert low[3:, 2].tolist() == [3.0, 4.0]
    assert np.isnan(writer.snapshot().steps.series(Series.GRADIENT_NORM)[0][:3, 2]).all()


def test_it_is_read_while_it_is_written_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "a.db", header())
    write(writer, range(10))
    writer.flush()
    assert len(read_run(tmp_path / "a.db").steps.first) == 10
    write(writer, range(10, 12))
    assert len(read_run(tmp_path / "a.db").steps.first) == 10
    assert len(writer.snapshot().steps.first) == 12
    writer.close(finished=False)
    again = RunWriter(tmp_path / "a.db", header())
    assert again.next_step == 12
    write(again, range(12, 15))
    again.close()
    assert read_run(tmp_path / "a.db").steps.first.tolist() == list(range(15))


CHILD = """
import os, sys
from gradtrace.records.run import Scalar, Series
from gradtrace.runs.writer import RunWriter
from tests.runs.test_runs import header, write
for path in sys.stdin:  # a process each, which is killed
    child = os.fork()
    if child:
        print(child, flush=True)
        os.waitpid(child, 0)
        print("gone", flush=True)
        continue
    writer = RunWriter(path.strip(), header(), flush_every_s=0.0)
    print("begun", flush=True)
    step = 0
    while True:
        write(writer, range(step, step + 1))
        step += 1
"""


def killed(paths: Sequence[Path], after_s: Sequence[float]) -> list[int]:
    """Rows in the files of processes that are killed so many seconds after they began."""
    root = Path(__file__).parents[2]
    places = os.environ | {"PYTHONPATH": f"{root}:{root}/src"}
    command = [sys.executable, "-W", "ignore", "-c", CHILD]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root, env=places, text=True
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        for path, seconds in zip(paths, after_s, strict=True):
            print(path, file=parent.stdin, flush=True)
            told = {parent.stdout.readline().strip() for _ in range(2)}
            (child,) = told - {"begun"}
            time.sleep(seconds)
            os.kill(int(child), signal.SIGKILL)
            assert parent.stdout.readline().strip() == "gone"
        parent.stdin.close()
    return [rows_of_unfinished(path) for path in paths]


def rows_of_unfinished(path: Path) -> int:
    run = read_run(path)
    assert not run.finished
    assert run.steps.first.tolist() == list(range(len(run.steps.first)))
    return len(run.steps.first)


def test_a_kill_leaves_a_file_that_opens(tmp_path: Path) -> None:
    (num_rows,) = killed([tmp_path / "a.db"], [0.3])
    assert num_rows > 0


def test_two_hundred_kills_at_random_moments_leave_files_that_open(tmp_path: Path) -> None:
    after_s = np.random.default_rng(0).uniform(0.0, 0.1, 200)
    num_rows = killed([tmp_path / f"{number}.db" for number in range(200)], after_s.tolist())
    assert len({*num_rows}) > 1


def test_a_file_that_cannot_be_written_is_one_warning_and_memory_serves(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(RuntimeWarning, match="the run is kept in memory only"):
        writer = RunWriter(tmp_path / "file" / "a.db", header())
    write(writer, range(5))  # a second warning would be an error
    writer.flush()
    writer.close()
    assert len(writer.snapshot().steps.first) == 5


def test_a_full_disk_in_the_middle_is_one_warning(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "a.db", header(), flush_every_s=0.0)
    write(writer, range(5))
    assert writer._file is not None
    writer._file._connection.execute("PRAGMA max_page_count = 1")
    with pytest.warns(RuntimeWarning, match="full") as caught:
        write(writer, range(5, 5000))
    assert len(caught) == 1
    assert writer.snapshot().steps.first[-1] + writer.snapshot().steps.count[-1] == 5000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        writer.close()


def test_a_forked_child_writes_nothing(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "a.db", header())
    write(writer, range(3))
    pid = os.fork()
    if pid == 0:
        write(writer, range(3, 50))
        writer.close()
        os._exit(0)
    os.waitpid(pid, 0)
    write(writer, range(3, 5))
    writer.close()
    assert read_run(tmp_path / "a.db").steps.first.tolist() == list(range(5))


def test_a_network_folder_is_refused(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/export {tmp_path}/far nfs4 rw 0 0\n")
    assert remote_filesystem(tmp_path / "far" / "a.db", mounts) == "nfs4"
    assert remote_filesystem(tmp_path / "near.db", mounts) is None


def test_files_that_are_no_run_are_one_clear_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with pytest.raises(TraceFileError, match="no such file"):
        read_run(path)
    path.write_text("text")
    with pytest.raises(TraceFileError, match="not the file of a run: it is text"):
        read_run(path)
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (x)")
    with pytest.raises(TraceFileError, match="not of a gradtrace run"):
        read_run(path)
    path.unlink()
    writer = RunWriter(path, header())
    write(writer, range(2000))
    writer.close()
    assert list_runs(tmp_path) == [path]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert is_run(path)
    with pytest.raises(TraceFileError, match="damaged or cut off"):
        read_run(path)
    path.write_bytes(whole)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'version'")
    with pytest.raises(TraceFileError, match=r"newer gradtrace .*upgrade"):
        read_run(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = '1' WHERE key = 'version'")
    with pytest.raises(TraceFileError, match="an earlier gradtrace"):
        read_run(path)
