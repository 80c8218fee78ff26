"""The callback in transformers' Trainer, run for real on a network of a few neurons."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.records.run import Scalar

pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[transformers]'")
pytest.importorskip("accelerate", reason="accelerate is not installed: pip install '.[accelerate]'")

from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from gradtrace.integrations.transformers import GradTraceCallback

ALL = 1e6
"""A budget that lets no step pass by."""


pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]  # of their own matters


class Net(nn.Module):
    """Regression; an example whose number is `bad` makes the loss a NaN, `broken` raises."""

    def __init__(self, *, bad=-1.0, broken=-1.0):
        super().__init__()
        self.early, self.late = nn.Linear(3, 8), nn.Linear(8, 1)
        self.bad, self.broken = bad, broken

    def forward(self, x, number):
        if (number == self.broken).any():
            raise RuntimeError("broken")
        loss = self.late(torch.tanh(self.early(x))).square().mean()
        return {"loss": loss * torch.nan if (number == self.bad).any() else loss}


def examples(num=32):
    return [{"x": torch.randn(3).tolist(), "number": float(i)} for i in range(num)]


def make(model, folder, *callbacks, **options):
    settings = {"num_train_epochs": 1, "per_device_train_batch_size": 4, "report_to": [], "save_strategy": "no"}
    settings |= {"disable_tqdm": True, "use_cpu": True, "logging_steps": 1, "seed": 0}
    arguments = TrainingArguments(str(folder), **settings | options)
    trainer = Trainer(model, arguments, train_dataset=examples(), callbacks=list(callbacks))
    trainer._get_train_sampler = lambda *_rest: torch.utils.data.SequentialSampler(trainer.train_dataset)
    trainer.remove_callback(PrinterCallback)
    return trainer


def rows(watch):
    steps = watch.run.steps
    return steps.first.tolist(), steps.scalar(Scalar.GRADIENT_NORM)[1], steps.scalar(Scalar.CLIPPED_NORM)[1]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_under_accumulation_and_clipping_the_norm_is_the_trainers_own(accumulate, tmp_path):
    callback = GradTraceCallback(every=1, budget=ALL)
    trainer = make(Net(), tmp_path, callback, gradient_accumulation_steps=accumulate, max_grad_norm=0.05)
    trainer.train()
    steps, gradient, clipped = rows(callback.watch)
    own = [record["grad_norm"] for record in trainer.state.log_history if "grad_norm" in record]
    assert steps == list(range(8 // accumulate))
    assert gradient == pytest.approx(own, rel=1e-4)
    assert (clipped <= 0.05 * 1.001).all()
    assert (gradient > 0.05).any()


def test_layers_have_the_users_names(tmp_path):
    callback = GradTraceCallback(every=1, budget=ALL)
    make(Net(), tmp_path, callback).train()
    assert [p.name for p in callback.watch.run.header.parameters][:2] == ["early.weight", "early.bias"]
    assert {op.site.module for trace in callback.watch.diagnosis.traces for op in trace.ops} >= {"early", "late"}


def test_bfloat16_needs_nothing_further(tmp_path):
    callback = GradTraceCallback(budget=ALL)
    make(Net(), tmp_path, callback, bf16=True).train()
    assert rows(callback.watch)[0] == list(range(8))
    assert callback.watch.diagnosis.healthy


class Reporter(TrainerCallback):
    """As TensorBoard's and the others: keeps what it is given."""

    def __init__(self):
        self.given = []

    def on_log(self, args, state, control, logs=None, **_rest):
        self.given.append(dict(logs))


def test_attached_it_hands_the_numbers_to_all_that_the_trainer_reports_to(tmp_path):
    reporter = Reporter()
    trainer = make(Net(), tmp_path, reporter)
    GradTraceCallback(budget=ALL).attach(trainer)
    trainer.train()
    assert len(reporter.given) == 8 + 1  # and what sums up the training
    for given in reporter.given[:8]:
        assert given["gradtrace/loss"] == pytest.approx(given["loss"], rel=1e-3)
        assert given["gradtrace/gradient_norm"] == pytest.approx(given["grad_norm"], rel=1e-4)


def test_without_they_are_in_its_log_history_which_checkpoints_keep(tmp_path):
    make(Net(), tmp_path, GradTraceCallback(budget=ALL), save_strategy="steps", save_steps=8).train()
    history = json.loads((tmp_path / "checkpoint-8" / "trainer_state.json").read_text())["log_history"]
    assert [record["step"] for record in history if "gradtrace/gradient_norm" in record] == list(range(1, 9))


def test_an_evaluation_is_no_step_and_its_logs_are_left_alone(tmp_path):
    callback, reporter = GradTraceCallback(budget=ALL), Reporter()
    trainer = make(Net(), tmp_path, reporter, prediction_loss_only=True)
    trainer.args.eval_strategy, trainer.args.eval_steps, trainer.eval_dataset = "steps", 4, examples(8)
    callback.attach(trainer)
    trainer.train()
    assert rows(callback.watch)[0] == list(range(8))
    evaluations = [given for given in reporter.given if "eval_runtime" in given]
    assert len(evaluations) == 2
    assert not any(name.startswith("gradtrace/") for given in evaluations for name in given)


def test_a_resumed_training_goes_on_at_the_trainers_step(tmp_path):
    path = tmp_path / "run.db"
    make(Net(), tmp_path, GradTraceCallback(path=path, budget=ALL), save_strategy="steps", save_steps=8).train()
    again = GradTraceCallback(path=path, budget=ALL)
    trainer = make(Net(), tmp_path, again, num_train_epochs=2)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    run = gradtrace.load(path)
    assert run.steps.first.tolist() == list(range(16))
    assert "this is step 8 of the trainer" in [event.message for event in run.events]


def poisoned(folder):
    from safetensors.torch import load_file

    files = list(folder.rglob("model.safetensors"))
    assert files
    return [key for file in files for key, value in load_file(file).items() if not torch.isfinite(value).all()]


@pytest.mark.parametrize("stop_on", [None, "nonfinite"])
def test_stopping_comes_before_a_poisoned_checkpoint_is_written(stop_on, tmp_path, caplog):
    callback = GradTraceCallback(stop_on=stop_on, budget=ALL)
    trainer = make(Net(bad=17.0), tmp_path, callback, save_strategy="steps", save_steps=1, num_train_epochs=2)
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        trainer.train()
    finally:
        logger.removeHandler(caplog.handler)
    assert bool(poisoned(tmp_path)) is (stop_on is None)
    assert trainer.state.global_step == (16 if stop_on is None else 5)
    assert any("gradtrace, by step 4: critical: " in record.message for record in caplog.records)


def test_an_exception_passes_and_ends_the_watch_with_a_note(tmp_path):
    callback, model = GradTraceCallback(budget=ALL), Net(broken=13.0)
    trainer = make(model, tmp_path, callback)
    with pytest.raises(RuntimeError, match="broken"):
        trainer.train()
    run = callback.watch.run
    assert (run.finished, len(run.steps.first)) == (False, 3)
    (note,) = (note for note in run.notes if "ended by" in note)
    assert "the training ended by RuntimeError: broken (" in note
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    model.broken = -1.0
    trainer.train()
    assert len(callback.watch.run.steps.first) == 8
