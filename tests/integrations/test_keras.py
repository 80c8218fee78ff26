"""The callback in Keras' fit, run for real on torch, in a process of its own: the backend is chosen at import."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        importlib.util.find_spec("keras") is None, reason="keras is not installed: pip install '.[keras]'"
    ),
]

BEGINNING = """
import json, sys
import keras, numpy as np, torch
from gradtrace.integrations.keras import GradTraceCallback
from gradtrace.records.run import Scalar

ALL = 1e6  # a budget that lets no step pass by
torch.set_num_threads(1)
keras.utils.set_random_seed(0)
x, y = np.random.randn(32, 4).astype("float32"), np.random.randn(32, 1).astype("float32")


def make(depth=1, *, optimizer=None):
    hidden = [keras.layers.Dense(8, activation="sigmoid", name=f"hidden{i}") for i in range(depth)]
    model = keras.Sequential([keras.layers.Input((4,)), *hidden, keras.layers.Dense(1, name="late")])
    model.compile(optimizer or keras.optimizers.SGD(0.01), "mse")
    return model


def fit(model, callback, *others, x=x, **options):
    settings = {"batch_size": 4, "epochs": 1, "verbose": 0, "shuffle": False}
    return model.fit(x, y, callbacks=[callback, *others], **settings | options)


def rows(callback):
    return callback.watch.run.steps.first.tolist()


class Norms(keras.callbacks.Callback):
    seen = []

    def on_train_batch_end(self, batch, logs=None):
        gradients = [v.value.grad.flatten() for v in self.model.trainable_weights]
        self.seen.append(float(torch.cat(gradients).norm()))


def told(**what):
    print("TOLD", json.dumps(what))
"""


def run(code, backend="torch"):
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BEGINNING + code],
        capture_output=True, text=True, check=False, env={**os.environ, "KERAS_BACKEND": backend},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-3000:]
    (line,) = [line for line in found.stdout.splitlines() if line.startswith("TOLD ")]
    return json.loads(line.removeprefix("TOLD ")), found.stdout


def test_each_batch_is_a_row_with_its_gradient_also_under_clipping_and_two_fits():
    told, _ = run("""
callback, norms = GradTraceCallback(every=1, budget=ALL), Norms()
model = make(optimizer=keras.optimizers.SGD(0.01, clipnorm=0.01))
fit(model, callback, norms)
gradient = callback.watch.run.steps.scalar(Scalar.GRADIENT_NORM)[1].tolist()
names = [p.name for p in callback.watch.run.header.parameters]
fit(model, callback)
told(rows=rows(callback), gradient=gradient, norms=norms.seen, names=names,
     events=[e.message for e in callback.watch.run.events])
""")
    assert told["rows"] == list(range(8))
    assert told["gradient"] == pytest.approx(told["norms"], rel=1e-4)
    assert "this is step 8 of the trainer" in told["events"]
    assert told["names"] == [
        f"sequential/{layer}.{kind}" for layer in ("hidden0", "late") for kind in ("kernel", "bias")
    ]


def test_of_mixed_precision_the_loss_scale_is_taken_out_and_what_it_leaves_out_is_no_fault():
    told, _ = run("""
from gradtrace.records.run import EventKind
keras.mixed_precision.set_global_policy("mixed_bfloat16")
plain = GradTraceCallback(budget=ALL)
fit(make(), plain)
keras.mixed_precision.set_global_policy("mixed_float16")
scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=2.0**20)
callback = GradTraceCallback(every=1, budget=ALL, stop_on="nonfinite")
fit(make(optimizer=scaled), callback)
run = callback.watch.run
told(rows=rows(callback), healthy=callback.watch.diagnosis.healthy, notes=run.notes,
     gradient=run.steps.scalar(Scalar.GRADIENT_NORM)[1].tolist(), scale=run.steps.scalar(Scalar.LOSS_SCALE)[1].tolist(),
     skipped=[e.step for e in run.events if e.kind is EventKind.SKIPPED],
     plain=plain.watch.diagnosis.healthy, plain_rows=rows(plain))
""")
    assert (told["plain"], told["plain_rows"]) == (True, list(range(8)))
    assert told["rows"] == list(range(8))
    assert (told["healthy"], told["notes"]) == (True, [])
    fallen = [step for step in range(7) if told["scale"][step + 1] < told["scale"][step]]
    assert fallen == [step for step in told["skipped"] if step < 7]
    assert fallen
    assert all(norm < 100.0 for step, norm in enumerate(told["gradient"]) if step not in told["skipped"])


def test_a_vanishing_gradient_is_told_with_the_layers_names_and_numbers_are_in_the_history():
    told, printed = run("""
seen = GradTraceCallback(budget=ALL)
history = fit(make(), seen, epochs=5, validation_data=(x, y)).history
callback = GradTraceCallback(every=1, budget=ALL)
fit(make(10), callback)
(finding, *_) = callback.watch.diagnosis.findings
told(symptom=finding.symptom, cause=finding.cause, message=finding.message, where=finding.where, source=finding.source,
     rows=rows(seen), norms=history["gradtrace/gradient_norm"])
""")
    assert (told["symptom"], told["cause"]) == ("vanishing", "activation_derivative")
    assert "sequential_1/hidden0 (Dense)" in told["message"]
    assert told["source"].startswith("<string>:")  # the user's line, and none of Keras'
    assert set(told["where"]) <= {f"sequential_1/hidden{i}" for i in range(10)}
    assert "gradtrace, by step" in printed
    assert told["rows"] == list(range(40))  # an evaluation is no step
    assert len(told["norms"]) == 5
    assert all(norm > 0.0 for norm in told["norms"])


@pytest.mark.parametrize("stop_on", [None, "nonfinite"])
def test_stopping_comes_before_a_poisoned_checkpoint_is_written(stop_on, tmp_path):
    told, printed = run(f"""
x[17] = np.nan
callback, folder = GradTraceCallback(stop_on={stop_on!r}, budget=ALL), {str(tmp_path)!r}
saving = keras.callbacks.ModelCheckpoint(folder + "/{{batch}}.weights.h5", save_weights_only=True, save_freq=1)
model = make()
fit(model, callback, saving, epochs=2)
finite = []
import pathlib
for path in pathlib.Path(folder).glob("*.h5"):
    model.load_weights(path)
    finite.append(all(bool(np.isfinite(w).all()) for w in model.get_weights()))
told(rows=rows(callback), finite=finite, finished=callback.watch.run.finished)
""")
    assert told["finite"]
    assert all(told["finite"]) is (stop_on is not None)
    assert len(told["rows"]) == (16 if stop_on is None else 5)
    assert told["finished"]
    assert "gradtrace, by step 4: critical: " in printed


BROKEN = """
class Cut(keras.layers.Layer):
    calls = 0

    def call(self, x):
        self.calls += 1
        return torch.sqrt(x * 0.0) + x if self.calls > 5 else x  # of which the gradient is not finite


def broken():
    parts = [keras.layers.Dense(8, name="early"), Cut(name="cut"), keras.layers.BatchNormalization(name="norm")]
    return keras.Sequential([keras.layers.Input((4,)), *parts, keras.layers.Dense(1, name="late")], name="net")
"""


def test_a_nan_is_told_with_the_layers_name_and_the_averages_of_its_step_are_as_they_would_be():
    told, _ = run(f"""{BROKEN}
class Averages(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        norm = self.model.get_layer("norm")
        self.seen.append([*norm.moving_mean.numpy().tolist(), *norm.moving_variance.numpy().tolist()])


averages = []
for callback in (keras.callbacks.Callback(), GradTraceCallback(every=1, budget=ALL)):
    keras.utils.set_random_seed(0)
    model, seen = broken(), Averages()
    model.compile(keras.optimizers.SGD(0.01), "mse")
    fit(model, callback, seen)
    averages.append(seen.seen)
(finding, *_) = callback.watch.diagnosis.findings
told(where=finding.where, message=finding.message, step=finding.step, plain=averages[0][:3], watched=averages[1][:3])
""")
    assert told["where"] == ["net/cut"]
    assert "sqrt in net/cut (Cut, " in told["message"]
    assert told["step"] == 2
    assert told["plain"] == told["watched"]


def test_a_model_that_was_loaded_goes_on_in_the_same_file_under_the_same_names(tmp_path):
    told, _ = run(f"""
folder = {str(tmp_path)!r}
model = make(2)
fit(model, GradTraceCallback(path=folder + "/run.db", budget=ALL))
model.save(folder + "/model.keras")
again = GradTraceCallback(path=folder + "/run.db", budget=ALL)
fit(keras.models.load_model(folder + "/model.keras"), again, epochs=2, initial_epoch=1)
import gradtrace
told(rows=gradtrace.load(folder + "/run.db").steps.first.tolist(), notes=again.watch.run.notes,
     names=[p.name for p in again.watch.run.header.parameters])
""")
    assert told["rows"] == list(range(16))
    assert told["notes"] == ["this is step 8 of the trainer"]
    assert told["names"][:3] == ["sequential/hidden0.kernel", "sequential/hidden0.bias", "sequential/hidden1.kernel"]


def test_layers_of_one_name_are_all_watched():
    told, _ = run("""
class Twice(keras.Model):
    def __init__(self):
        super().__init__(name="twice")
        self.early, self.late = keras.layers.Dense(8, name="part"), keras.layers.Dense(1, name="part")

    def call(self, x):
        return self.late(self.early(x))


model = Twice()
model.compile(keras.optimizers.SGD(0.01), "mse")
callback = GradTraceCallback(budget=ALL)
fit(model, callback)
told(names=[p.name for p in callback.watch.run.header.parameters])
""")
    assert told["names"] == [f"twice/{part}.{kind}" for part in ("part", "part_2") for kind in ("kernel", "bias")]


def test_an_exception_passes_and_close_ends_the_watch():
    told, _ = run("""
class Broken(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch == 3:
            raise RuntimeError("broken")

callback, model = GradTraceCallback(budget=ALL), make()
try:
    fit(model, callback, Broken())
except RuntimeError as error:
    message = str(error)
hooks = sum(len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in model.layers)
note = [note for note in callback.watch.run.notes if "ended by RuntimeError: broken" in note]
told(message=message, rows=rows(callback), finished=callback.watch.run.finished, hooks=hooks, notes=len(note))
""")
    assert told == {"message": "broken", "rows": [0, 1, 2], "finished": False, "hooks": 0, "notes": 1}
