"""The callback in skorch's nets, run for real."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from gradtrace.records.run import Scalar

pytest.importorskip("skorch", reason="skorch is not installed: pip install '.[skorch]'")

from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback, Checkpoint, GradientNormClipping

from gradtrace.integrations.skorch import GradTrace

ALL = 1e6
"""A budget that lets no step pass by."""


pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]  # of its own matters


class Net(nn.Module):
    def __init__(self, broken=False):
        super().__init__()
        self.early, self.late, self.broken = nn.Linear(3, 8), nn.Linear(8, 1), broken

    def forward(self, x):
        if self.broken:
            raise RuntimeError("broken")
        return self.late(torch.tanh(self.early(x)))


X, Y = np.random.default_rng(0).standard_normal((2, 32, 3)).astype(np.float32)
Y = Y[:, :1]
BAD = X.copy()
BAD[17] = np.nan


def make(*callbacks, **options):
    settings = {"max_epochs": 1, "batch_size": 4, "train_split": None, "verbose": 0, "lr": 0.01}
    return NeuralNetRegressor(Net, callbacks=list(callbacks), **settings | options)


def rows(watch):
    steps = watch.run.steps
    return steps.first.tolist(), steps.scalar(Scalar.GRADIENT_NORM)[1], steps.scalar(Scalar.CLIPPED_NORM)[1]


class Norms(Callback):
    def __init__(self):
        self.seen = []

    def on_grad_computed(self, net, named_parameters, **_rest):
        self.seen.append(float(torch.cat([p.grad.flatten() for _, p in named_parameters]).norm()))


def test_under_clipping_each_batch_is_a_row_with_its_gradient_and_the_users_names():
    callback, norms = GradTrace(every=1, budget=ALL), Norms()
    make(norms, callback, GradientNormClipping(0.05)).fit(X, Y)
    steps, gradient, clipped = rows(callback.watch)
    assert steps == list(range(8))
    assert gradient == pytest.approx(norms.seen, rel=1e-4)
    assert (clipped <= 0.05 * 1.001).all()
    assert [p.name for p in callback.watch.run.header.parameters][:2] == ["early.weight", "early.bias"]


class Accumulating(NeuralNetRegressor):
    """As skorch's documentation does it."""

    def train_step(self, batch, **fit_params):
        number = self.history[-1]["batches"]
        step = self.train_step_single(batch, **fit_params)
        if len(number) % 2 == 0:
            self.optimizer_.step()
            self.optimizer_.zero_grad()
        return step


def test_under_accumulation_a_row_is_an_optimizer_step():
    callback = GradTrace(budget=ALL)
    Accumulating(Net, callbacks=[callback], max_epochs=1, batch_size=4, train_split=None, verbose=0).fit(X, Y)
    assert len(rows(callback.watch)[0]) == 4


class Twofold(NeuralNetRegressor):
    """Two optimizers that step one after the other."""

    def initialize_optimizer(self, *_args, **_rest):
        self.optimizer_ = torch.optim.SGD(self.module_.early.parameters(), 0.01)
        self.second_ = torch.optim.SGD(self.module_.late.parameters(), 0.01)
        return self

    def train_step(self, batch, **fit_params):
        self.optimizer_.zero_grad()
        self.second_.zero_grad()
        step = self.train_step_single(batch, **fit_params)
        self.optimizer_.step()
        self.second_.step()
        return step


def test_an_optimizer_that_skorch_does_not_know_joins_when_it_steps():
    callback = GradTrace(budget=ALL)
    Twofold(Net, callbacks=[callback], max_epochs=1, batch_size=4, train_split=None, verbose=0).fit(X, Y)
    assert {p.optimizer for p in callback.watch.run.header.parameters} == {0, 1}
    assert len(rows(callback.watch)[0]) in (8, 9)  # the first row may be over before the second has ever stepped


def test_validation_is_no_step_and_numbers_are_in_the_history():
    from skorch.dataset import ValidSplit

    callback = GradTrace(budget=ALL)
    net = make(callback, max_epochs=6, train_split=ValidSplit(4)).fit(X, Y)
    assert len(rows(callback.watch)[0]) == 36
    assert net.history[-1, "gradtrace/gradient_norm"] > 0.0
    assert net.history[-1, "batches", 0, "gradtrace/gradient_norm"] > 0.0


def test_a_partial_fit_goes_on(tmp_path):
    callback = GradTrace(path=tmp_path / "run.db", budget=ALL)
    make(callback).fit(X, Y).partial_fit(X, Y)
    assert callback.watch.first_step == 8
    assert len(rows(callback.watch)[0]) == 8


@pytest.mark.parametrize("stop_on", [None, "nonfinite"])
def test_stopping_comes_before_a_poisoned_checkpoint_is_written(stop_on, tmp_path, capsys):
    callback = GradTrace(stop_on=stop_on, budget=ALL)
    saving = Checkpoint(monitor=None, dirname=tmp_path, f_params="{last_epoch[epoch]}.pt")
    net = make(callback, saving, max_epochs=3, verbose=1).fit(BAD, Y)
    saved = [value for path in tmp_path.glob("*.pt") for value in torch.load(path).values()]
    assert all(torch.isfinite(value).all() for value in saved) is (stop_on is not None)
    assert all(torch.isfinite(p).all() for p in net.module_.parameters()) is (stop_on is not None)
    assert len(rows(callback.watch)[0]) == (24 if stop_on is None else 5)
    assert "gradtrace, by step 4: critical: " in capsys.readouterr().out
    assert callback.watch.run.finished


def test_an_exception_passes_and_ends_the_watch_with_a_note():
    callback = GradTrace(budget=ALL)
    net = make(callback, module__broken=True)
    with pytest.raises(RuntimeError, match="broken"):
        net.fit(X, Y)
    assert callback.watch.run.finished is False
    assert any("ended by RuntimeError: broken" in note for note in callback.watch.run.notes)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.module_.modules())


def test_nets_are_cloned_searched_and_pickled_with_it():
    callback = GradTrace(stop_on="nonfinite", budget=0.5)
    assert clone(callback).get_params() == {"stop_on": "nonfinite", "budget": 0.5}
    net = make(callback)
    search = GridSearchCV(net, {"lr": [0.01, 0.1]}, cv=2, scoring="neg_mean_squared_error").fit(X, Y)
    assert search.best_score_ < 0.0
    other = pickle.loads(pickle.dumps(net.fit(X, Y)))
    assert other.predict(X) == pytest.approx(net.predict(X))
