"""What every integration shares: options, steps of the trainer, when to stop, and what a copy takes along."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.errors import InputError
from gradtrace.integrations.follower import Follower
from gradtrace.integrations.lightning_factory import VARIABLE, callbacks
from gradtrace.integrations.needed import needed
from gradtrace.integrations.raising import Raises

ALL = 1e6
"""A budget that lets no step pass by."""


PREFIX = "gradtrace/"


def train(model, num_steps, *, bad=-1):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(num_steps):
        optimizer.zero_grad()
        model(torch.full((4, 3), torch.nan if step == bad else 1.0)).square().mean().backward()
        optimizer.step()


def follow(stop_on=None, *, num_steps=3, bad=-1, at=0, raises=None, **options):
    told, model = list[str](), nn.Linear(3, 1)
    follower = Follower(stop_on, {"budget": ALL, **options}, raises)
    follower.begin(model, (), tell=told.append, at=at)
    train(model, num_steps, bad=bad)
    return follower, told, model


@pytest.mark.parametrize(
    ("stop_on", "options", "sentence"),
    [
        ("nan", {}, "stop_on must be None or 'nonfinite', but it is 'nan'"),
        (None, {"pth": "run.db"}, "there is no option 'pth'; there are stop_on, budget"),
        (None, {"optimizers": ()}, "there is no option 'optimizers'"),
        ("nonfinite", {"on_nonfinite": "report"}, "on_nonfinite must not be given beside it"),
    ],
)
def test_what_cannot_be_is_said_before_any_training(stop_on, options, sentence):
    with pytest.raises(InputError, match=sentence):
        Follower(stop_on, options)


def test_numbers_are_the_trainers_steps_and_are_taken_once():
    follower, _, _ = follow(at=40)
    follower.end(finished=True)
    steps = [step for step, _ in follower.arrived()]
    assert steps == [40, 41, 42]
    assert follower.arrived() == []


def test_the_latest_numbers_are_those_of_this_moment():
    follower, _, _ = follow(num_steps=1)
    (gradient_norm,) = [v for name, v in follower.latest().items() if name == f"{PREFIX}gradient_norm"]
    assert gradient_norm > 0.0
    assert follower.latest() == {}
    follower.end(finished=True)


def test_a_file_that_goes_on_has_steps_of_its_own_and_the_trainer_keeps_its_own(tmp_path):
    path = tmp_path / "run.db"
    follow(path=path)[0].end(finished=True)
    follower, _, _ = follow(path=path, at=3)
    follower.end(finished=True)
    assert [step for step, _ in follower.arrived()] == [3, 4, 5]
    assert gradtrace.load(path).steps.first.tolist() == [0, 1, 2, 3, 4, 5]


def test_the_run_says_which_step_of_the_trainer_it_began_at():
    follower, _, _ = follow(at=40)
    follower.end(finished=True)
    assert "this is step 40 of the trainer" in [event.message for event in follower.watch.run.events]


def test_a_step_that_is_not_finite_is_left_out_told_and_to_be_stopped_at():
    follower, told, model = follow("nonfinite", bad=2, at=10)
    assert follower.must_stop
    assert told[0].startswith("gradtrace, by step 12: critical: ")
    assert torch.isfinite(model.weight).all()
    follower.end(finished=True)


def test_without_stop_on_it_is_told_and_nothing_is_changed():
    follower, told, model = follow(bad=2)
    assert told
    assert not follower.must_stop
    assert torch.isnan(model.weight).any()
    follower.end(finished=True)


def test_a_nan_of_an_earlier_run_in_the_same_file_stops_nothing(tmp_path):
    path = tmp_path / "run.db"
    follow("nonfinite", bad=1, path=path)[0].end(finished=True)
    follower, _, _ = follow("nonfinite", path=path, at=3)
    assert not follower.must_stop
    follower.end(finished=True)


def test_a_training_that_was_left_open_is_ended_by_the_next():
    follower, _, _ = follow()
    first, model = follower.watch, nn.Linear(3, 1)
    follower.begin(model, (), tell=print)
    train(model, 1)
    follower.end(finished=True)
    assert first.run.finished is False
    assert len(first.run.steps.first) == 3


def test_other_processes_than_the_main_one_keep_and_tell_nothing(tmp_path):
    told, model = list[str](), nn.Linear(3, 1)
    follower = Follower("nonfinite", {"path": tmp_path / "run.db"})
    follower.begin(model, (), tell=told.append, is_main=False)
    train(model, 3, bad=1)
    assert follower.must_stop
    follower.end(finished=True)
    assert told == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_takes_what_was_asked_for_and_no_watch(copied, tmp_path):
    follower, _, _ = follow("nonfinite", path=tmp_path / "run.db")
    other = copied(follower)
    assert other.watch is None
    assert other.stops
    follower.end(finished=True)


class Trainer:
    def __init__(self, *followers):
        self.followers = followers

    def train(self, value, *, error=None):
        if error is not None:
            raise error
        return value


class Deeper(Trainer):
    pass


RAISES = Raises(Trainer, "train", lambda trainer: trainer.followers)


def test_what_a_trainers_method_raises_ends_its_own_followers_alone():
    (mine, _, _), (other, _, _) = (follow(raises=RAISES) for _ in range(2))
    trainer = Deeper(mine)
    assert trainer.train(3) == 3
    assert mine.watch.num_steps == 3
    with pytest.raises(KeyboardInterrupt):
        trainer.train(3, error=KeyboardInterrupt())
    assert mine.watch.run.finished is False
    assert "the training ended by KeyboardInterrupt" in mine.watch.run.notes[-1]
    assert other.watch.num_steps == 3
    other.end(finished=True)
    assert other.watch.run.notes == ()


class Plain(Trainer):
    def train(self, value, *, error=None):
        return super().train(value, error=error)


def test_a_trainers_method_is_its_own_again_when_the_last_follower_is_gone():
    own = Plain.train
    first = Follower(None, {}, Raises(Plain, "train", lambda trainer: trainer.followers))
    second = copy.copy(first)
    del first
    gc.collect()
    assert Plain.train is not own
    del second
    gc.collect()
    assert Plain.train is own


def test_a_training_that_nobody_ended_ends_with_the_process(tmp_path):
    code = """
import torch
from gradtrace.integrations.follower import Follower
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
follower = Follower(None, {"path": "run.db", "budget": 1e6})
follower.begin(model, optimizer, tell=print)
"""
    loop = """
for _ in range(5):
    optimizer.zero_grad()
    model(torch.randn(4, 3)).square().mean().backward()
    optimizer.step()
raise RuntimeError("broken")
"""
    ended = subprocess.run(
        [sys.executable, "-c", code + loop], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.rstrip().endswith("RuntimeError: broken")
    run = gradtrace.load(tmp_path / "run.db")
    assert (run.finished, run.steps.num_steps) == (False, 5)


def test_what_is_missing_is_one_sentence_with_the_command():
    with pytest.raises(ImportError, match="needs a_trainer, which is not installed: pip install a-trainer"):  # noqa: SIM117
        with needed("Trainer", "a-trainer"):
            import a_trainer  # type: ignore[import-not-found]  # noqa: F401


def test_lightning_is_given_nothing_that_was_not_asked_for_and_nothing_is_imported(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert callbacks() == []
    code = (
        "import sys; from gradtrace.integrations.lightning_factory import callbacks; callbacks(); print(*sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, VARIABLE: ""}
    )
    assert not {"torch", "lightning"} & set(found.stdout.split())


def test_the_factories_that_lightning_looks_for_are_named():
    if sys.version_info < (3, 11):
        pytest.skip("tomllib is of Python 3.11")
    import tomllib  # type: ignore[import-not-found]

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    factory = {"gradtrace": "gradtrace.integrations.lightning_factory:callbacks"}
    assert project["entry-points"]["lightning.pytorch.callbacks_factory"] == factory
    assert project["entry-points"]["pytorch_lightning.callbacks_factory"] == factory
