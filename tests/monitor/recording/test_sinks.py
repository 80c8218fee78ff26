"""Do the trackers hold, when read back by their own means, the numbers that they were sent?"""

from __future__ import annotations

import importlib.util
import json
import math
import random
import struct
import sys
import time

import numpy as np
import pytest

from gradtrace.errors import InputError
from gradtrace.monitor.recording.sinks.choice import KINDS, as_sink, check_sink
from gradtrace.monitor.recording.sinks.feed import Feed
from gradtrace.records.finding import Finding
from gradtrace.records.run import Scalar, Series
from gradtrace.records.trace import ParameterStats, TensorStats, Trace
from gradtrace.records.vocabulary import Cause, Severity, Symptom

NAMES = ("0.weight", "0.bias")
FINDING = Finding(Symptom.EXPLODING, Cause.LEARNING_RATE, ("0",), Severity.CRITICAL, "Steps are too large.")


def gradient(counts) -> TensorStats:
    return TensorStats((4,), "float32", "cpu", 1.0, 1.0, 0.0, log2_counts=counts)


TRACE = Trace(
    (), (ParameterStats("0.weight", (4,), "float32", "cpu", 1.0, gradient(((-3, 5), (-1, 2)))),), loss=1.0
)  # fmt: skip


def play(sink, num_steps=3):
    """Loss 2**-step, the second gradient norm infinite at step 1, learning rate not measured."""
    failures: list[str] = []
    feed = Feed([as_sink(sink)], failures.append)
    for step in range(num_steps):
        scalars = [2.0**-step if one is Scalar.LOSS else math.nan for one in Scalar]
        series = np.full((len(Series), len(NAMES)), step + 0.5, np.float32)
        if step == 1:
            series[0, 1] = math.inf
        feed.step(step, NAMES, scalars, series if step == 0 else None)
    feed.trace(2, TRACE)
    feed.finding(2, FINDING)
    feed.close()
    feed.close()
    assert failures == []


def needs(package):
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"{package} is not installed: pip install '.[sinks]'"
    )


ours = pytest.mark.filterwarnings("default")  # the trackers warn of their own matters


@needs("tensorboard")
@ours
def test_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    play(as_sink(f"tensorboard:{tmp_path}"))
    read = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0, "tensors": 0}).Reload()
    assert [(event.step, event.value) for event in read.Scalars("gradtrace/loss")] == [(0, 1.0), (1, 0.5), (2, 0.25)]
    assert read.Scalars("gradtrace/weight_norm/0.bias")[0].value == 0.5
    assert "gradtrace/learning_rate" not in read.Tags()["scalars"]
    (event,) = read.Histograms("gradtrace/log2_gradient/0.weight")
    shown = event.histogram_value
    assert (shown.min, shown.max, shown.num) == (-3, 0, 7)
    assert [c for c in shown.bucket if c] == [5, 2]
    assert (
        b"critical: Steps are too large."
        in read.Tensors("gradtrace/finding/exploding/text_summary")[0].tensor_proto.string_val
    )


@needs("wandb")
@ours
def test_wandb_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    play(as_sink("wandb:tests", "a run"))
    rows, summary = [], {}
    for record in finished_wandb_records(next(tmp_path.glob("wandb/offline-run-*/*.wandb"))):
        if record.WhichOneof("record_type") == "history":
            rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item})
        for item in record.summary.update:
            summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    losses = [(row["gradtrace/step"], row["gradtrace/loss"]) for row in rows if "gradtrace/loss" in row]
    assert losses == [(0, 1.0), (1, 0.5), (2, 0.25)]
    (shown,) = (row for row in rows if "gradtrace/log2_gradient/0.weight/values" in row)
    assert shown["gradtrace/log2_gradient/0.weight/values"] == [5, 0, 2]
    assert shown["gradtrace/log2_gradient/0.weight/bins"] == [-3, -2, -1, 0]
    assert summary["gradtrace/finding/exploding"] == "step 2: critical: Steps are too large."


def finished_wandb_records(path):
    """Another process writes them, and offline nobody waits for it."""
    deadline = time.monotonic() + 60
    while True:
        records = list(wandb_records(path))
        if any(record.WhichOneof("record_type") == "exit" for record in records) or time.monotonic() > deadline:
            return records
        time.sleep(0.05)


def wandb_records(path):
    """The file is a log as LevelDB's: blocks of 32 KiB, each part with checksum, length, kind (1: whole, 4: last)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


@needs("mlflow")
@ours
def test_mlflow(tmp_path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    play(as_sink(f"mlflow:{uri}", "a run"))
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("gradtrace")
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "gradtrace/loss")
    assert [(metric.step, metric.value) for metric in history] == [(0, 1.0), (1, 0.5), (2, 0.25)]
    assert run.data.metrics["gradtrace/weight_norm/0.bias"] == 0.5
    assert run.data.tags["gradtrace/finding/exploding"] == "step 2: critical: Steps are too large."
    assert run.info.status == "FINISHED"


@needs("trackio")
@ours
def test_trackio(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    play(as_sink("trackio:tests", "a-run"))
    import trackio

    (run,) = trackio.Api().runs("tests")
    assert run.name == "a-run"
    assert capsys.readouterr().out == ""


# ------------------------------------------------------------------------------------------------ of any other kind


def test_a_function_is_given_the_numbers():
    seen = []
    play(lambda step, values: seen.append((step, dict(values))))
    assert seen[0] == (0, {"gradtrace/loss": 1.0})
    assert seen[1][1]["gradtrace/gradient_norm/0.weight"] == 0.5


class Writer:
    """Looks like a ``SummaryWriter``."""

    def __init__(self):
        self.seen = []

    def add_scalar(self, name, value, step):
        self.seen.append((name, value, step))

    def add_histogram_raw(self, name, **values):
        self.seen.append(name)

    def add_text(self, name, text, step):
        self.seen.append(text)

    def flush(self):
        self.seen.append("flushed")


def test_a_summary_writer_is_known_by_its_methods():
    writer = Writer()
    play(writer)
    assert writer.seen[0] == ("gradtrace/loss", 1.0, 0)
    assert writer.seen[-2:] == ["critical: Steps are too large.", "flushed"]


def test_a_sink_that_raises_is_left_out_and_the_others_go_on():
    def fails(step, values):
        raise OSError("disk is full")

    warnings: list[str] = []
    seen: list[int] = []
    feed = Feed([as_sink(fails), as_sink(lambda step, values: seen.append(step))], warnings.append)
    for step in range(3):
        feed.step(step, (), [1.0] * len(Scalar), None)
    assert seen == [0, 1, 2]
    assert warnings == ["FunctionSink is left out from now on: OSError: disk is full"]


def test_many_parameters_are_sent_seldom_and_the_step_always():
    calls = {"step": 0, "parameters": 0}

    def count(step, values):
        calls["step" if "gradtrace/loss" in values else "parameters"] += 1

    names = [f"layer{i}" for i in range(2000)]
    feed = Feed([as_sink(count)], pytest.fail)
    for step in range(50):
        feed.step(step, names, [1.0] * len(Scalar), np.ones((len(Series), len(names)), np.float32))
    assert calls["step"] == 50
    assert 1 <= calls["parameters"] < 25


def test_opening_a_tracker_leaves_random_state_and_stdout_alone(monkeypatch, capsys):
    from gradtrace.monitor.recording.sinks import choice

    def opened(text, name):
        print("hello", random.random(), np.random.random())  # noqa: T201
        return Feed([], pytest.fail)

    monkeypatch.setattr(choice, "_open", opened)
    monkeypatch.setattr(choice, "check_sink", lambda text: None)
    before = random.getstate(), str(np.random.get_state())
    as_sink("wandb")
    assert (random.getstate(), str(np.random.get_state())) == before
    assert capsys.readouterr().out == ""


def test_unknown_sinks_and_missing_packages_are_one_sentence(monkeypatch):
    with pytest.raises(InputError, match=r"one of tensorboard, wandb, mlflow, trackio.*not 'neptune:x'"):
        check_sink("neptune:x")
    with pytest.raises(InputError, match="SummaryWriter, a W&B run or a function, not int"):
        as_sink(3)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs a package that is not installed: pip install wandb"):
        check_sink("wandb:mine")


def test_checking_imports_no_tracker():
    known = set(sys.modules)
    for kind in KINDS:
        try:
            check_sink(kind)
        except InputError:
            continue
    assert not {kind for kind in KINDS if kind in sys.modules and kind not in known}
