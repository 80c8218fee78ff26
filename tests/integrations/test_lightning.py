"""The callback in Lightning's Trainer, run for real."""

from __future__ import annotations

import csv
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.integrations import lightning_factory
from gradtrace.records.run import Scalar

lightning = pytest.importorskip("lightning", reason="lightning is not installed: pip install '.[lightning]'")

from lightning.pytorch import LightningModule, Trainer  # noqa: E402
from lightning.pytorch.callbacks import Callback, ModelCheckpoint  # noqa: E402
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger  # noqa: E402
from lightning.pytorch.plugins.precision import MixedPrecision  # noqa: E402

from gradtrace.integrations.lightning import GradTraceCallback  # noqa: E402

ALL = 1e6
"""A budget that lets no step pass by."""


pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]  # Lightning's own, of loaders and the like


class Module(LightningModule):
    """Regression; the batch `bad` is a NaN; at the batch `broken` it raises."""

    def __init__(self, *, bad=-1, broken=-1):
        super().__init__()
        self.early, self.late = nn.Linear(3, 8), nn.Linear(8, 1)
        self.bad, self.broken = bad, broken

    def training_step(self, batch, batch_idx):
        if batch_idx == self.broken:
            raise RuntimeError("broken")
        (x,) = batch
        loss = self.late(torch.tanh(self.early(x))).square().mean()
        return loss * torch.nan if batch_idx == self.bad else loss

    def validation_step(self, batch, batch_idx):
        self.log("val", self.late(torch.tanh(self.early(batch[0]))).mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)


class Alternating(Module):
    """Two optimizers, by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            loss = super().training_step(batch, batch_idx)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), 0.01) for part in (self.early, self.late)]


def loader(num=32, size=4):
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(num, 3)), batch_size=size)


def fit(module, *callbacks, folder, ckpt=None, batches=None, **options):
    settings = {"max_epochs": 1, "logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = Trainer(
        default_root_dir=folder, callbacks=list(callbacks), accelerator="cpu", enable_model_summary=False,
        **settings | options,
    )  # fmt: skip
    trainer.fit(module, batches if batches is not None else loader(), ckpt_path=ckpt)
    return trainer


def rows(watch):
    steps = watch.run.steps
    return steps.first.tolist(), steps.scalar(Scalar.GRADIENT_NORM)[1], steps.scalar(Scalar.CLIPPED_NORM)[1]


@pytest.fixture
def callback():
    return GradTraceCallback(every=1, budget=ALL)


class Norms(Callback):
    """What Lightning's own hook sees before it clips."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        grads = [p.grad.flatten() for p in pl_module.parameters()]
        self.seen.append(float(torch.cat(grads).norm()))


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_under_accumulation_and_clipping_each_optimizer_step_is_a_row_with_the_whole_gradient(
    accumulate, callback, tmp_path
):
    norms = Norms()
    fit(Module(), norms, callback, folder=tmp_path, accumulate_grad_batches=accumulate, gradient_clip_val=0.05)
    steps, gradient, clipped = rows(callback.watch)
    assert steps == list(range(8 // accumulate))
    assert gradient == pytest.approx(norms.seen, rel=1e-5)
    assert (clipped <= 0.05 * 1.001).all()
    assert (gradient > 0.05).any()


def test_layers_have_the_users_names(callback, tmp_path):
    fit(Module(), callback, folder=tmp_path)
    assert [p.name for p in callback.watch.run.header.parameters] == [
        "early.weight", "early.bias", "late.weight", "late.bias"
    ]  # fmt: skip
    assert {op.site.module for trace in callback.watch.diagnosis.traces for op in trace.ops} >= {"early", "late"}


def test_two_optimizers_are_one_row_and_both_are_named(callback, tmp_path):
    fit(Alternating(), callback, folder=tmp_path)
    assert rows(callback.watch)[0] == list(range(8))
    assert [p.optimizer for p in callback.watch.run.header.parameters] == [0, 0, 1, 1]


def test_bfloat16_needs_nothing_further(callback, tmp_path):
    fit(Module(), callback, folder=tmp_path, precision="bf16-mixed")
    assert rows(callback.watch)[0] == list(range(8))
    assert callback.watch.diagnosis.healthy


def test_a_scalers_overflow_is_neither_a_finding_nor_a_reason_to_stop(tmp_path):
    callback = GradTraceCallback(stop_on="nonfinite", budget=ALL)
    norms = Norms()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1000, backoff_factor=2.0**-30)
    trainer = fit(
        Module(), norms, callback, folder=tmp_path, plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)]
    )
    steps, gradient, _ = rows(callback.watch)
    assert scaler.get_scale() < 2.0**127
    assert not trainer.should_stop
    assert not callback.watch.has_nonfinite
    assert len(steps) == 8
    assert gradient[-1] == pytest.approx(norms.seen[-1], rel=1e-2)


def test_a_resumed_fit_goes_on_at_the_trainers_step(tmp_path):
    path, saved = tmp_path / "run.db", tmp_path / "half.ckpt"
    fit(Module(), GradTraceCallback(path=path, budget=ALL), folder=tmp_path).save_checkpoint(saved)
    again = GradTraceCallback(path=path, budget=ALL)
    logger = CSVLogger(tmp_path, name="csv")
    trainer = fit(Module(), again, folder=tmp_path, ckpt=saved, max_epochs=2, logger=logger, log_every_n_steps=1)
    assert trainer.global_step == 16
    assert gradtrace.load(path).steps.first.tolist() == list(range(16))
    logged = read(logger, "gradtrace/loss")
    assert sorted(logged) == list(range(8, 16))


def read(logger, name):
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row.get(name)}


class Logging(Module):
    """Logs its loss."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("mine", loss)
        return loss


@pytest.mark.parametrize("step", [3, 8])
def test_resumed_from_a_checkpoint_of_a_batch_numbers_stand_at_the_step_of_the_modules_own(step, tmp_path):
    """Which Lightning writes before it has counted the batch."""
    saving = ModelCheckpoint(tmp_path, every_n_train_steps=step, save_top_k=-1, filename="{step}")
    fit(Module(), saving, folder=tmp_path, enable_checkpointing=True)
    logger, callback = CSVLogger(tmp_path, name="csv"), GradTraceCallback(budget=ALL)
    fit(Logging(), callback, folder=tmp_path, ckpt=tmp_path / f"step={step}.ckpt", logger=logger, log_every_n_steps=1,
        max_epochs=2)  # fmt: skip
    assert callback.watch.run.notes == (f"this is step {step} of the trainer",)
    assert sorted(read(logger, "mine")) == list(range(step, 16))
    assert read(logger, "gradtrace/loss") == pytest.approx(read(logger, "mine"))


def test_numbers_go_to_every_logger_at_the_step_of_the_modules_own(tmp_path):
    logger = CSVLogger(tmp_path, name="csv")
    fit(Logging(), GradTraceCallback(budget=ALL), folder=tmp_path, logger=[logger, TensorBoardLogger(tmp_path)],
        log_every_n_steps=1, max_epochs=2)  # fmt: skip
    assert read(logger, "gradtrace/loss") == pytest.approx(read(logger, "mine"))
    assert set(read(logger, "gradtrace/gradient_norm")) == set(range(16))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next((tmp_path / "lightning_logs").iterdir())))
    events.Reload()
    assert [event.step for event in events.Scalars("gradtrace/gradient_norm")] == list(range(16))


def poisoned(folder):
    checkpoints = list(folder.rglob("*.ckpt"))
    assert checkpoints
    loaded = [torch.load(path, weights_only=False)["state_dict"] for path in checkpoints]
    return [key for state in loaded for key, value in state.items() if not torch.isfinite(value).all()]


@pytest.mark.parametrize("stop_on", [None, "nonfinite"])
def test_stopping_comes_before_a_poisoned_checkpoint_is_written(stop_on, tmp_path, caplog):
    saving = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=1, save_top_k=-1)
    callback = GradTraceCallback(stop_on=stop_on, budget=ALL)
    with caplog.at_level(logging.WARNING, "lightning.pytorch"):
        trainer = fit(Module(bad=4), saving, callback, folder=tmp_path, max_epochs=3, enable_checkpointing=True)
    assert bool(poisoned(tmp_path / "saved")) is (stop_on is None)
    assert trainer.global_step == (24 if stop_on is None else 5)
    assert any("nan" in record.message.lower() for record in caplog.records if "gradtrace" in record.name)
    assert callback.watch.run.finished


def test_findings_go_to_the_progress_bar_where_there_is_one(tmp_path, capsys):
    fit(Module(bad=2), GradTraceCallback(budget=ALL), folder=tmp_path, enable_progress_bar=True)
    assert "gradtrace, by step 2: critical: " in "".join(capsys.readouterr())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_passes_and_leaves_no_hook(error, callback, tmp_path):
    class Broken(Module):
        def training_step(self, batch, batch_idx):
            if batch_idx == 3:
                raise error("broken")
            return super().training_step(batch, batch_idx)

    module = Broken()
    with pytest.raises(BaseException) as raised:  # noqa: PT011  # Lightning makes an exit of an interrupt
        fit(module, callback, folder=tmp_path)
    assert isinstance(raised.value, error | SystemExit)
    steps, gradient, _ = rows(callback.watch)
    assert callback.watch.run.finished is False
    assert steps == [0, 1, 2, 3]  # Lightning computes within the optimizer's step: the last one began
    assert np.isfinite(gradient).tolist() == [True, True, True, False]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_validation_and_the_sanity_check_are_no_steps(callback, tmp_path):
    class Validating(Module):
        def val_dataloader(self):
            return loader(8)

    fit(Validating(), callback, folder=tmp_path, max_epochs=2, val_check_interval=2)
    assert rows(callback.watch)[0] == list(range(16))


def test_an_environment_variable_is_enough(tmp_path, monkeypatch):
    monkeypatch.setenv(lightning_factory.VARIABLE, str(tmp_path / "run.db"))
    fit(Module(), *lightning_factory.callbacks(), folder=tmp_path)
    assert len(gradtrace.load(tmp_path / "run.db").steps.first) == 8


def test_lightning_finds_the_factory_by_itself(tmp_path, monkeypatch):
    from importlib.metadata import entry_points

    if not entry_points(group="lightning.pytorch.callbacks_factory", name="gradtrace"):
        pytest.skip("gradtrace was installed before it had this entry point: install it again")
    monkeypatch.setenv(lightning_factory.VARIABLE, str(tmp_path / "run.db"))
    fit(Module(), folder=tmp_path)
    assert gradtrace.load(tmp_path / "run.db").finished


TWO_PROCESSES = """
import sys, torch
from pathlib import Path
from torch import nn
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from gradtrace.integrations.lightning import GradTraceCallback

torch.set_num_threads(1)
folder = Path(sys.argv[1])

class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.early, self.late = nn.Linear(3, 8), nn.Linear(8, 1)

    def training_step(self, batch, batch_idx):
        loss = self.late(torch.tanh(self.early(batch[0]))).square().mean()
        return loss * torch.nan if (batch_idx, self.global_rank) == (4, 1) else loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)

batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(64, 3)), batch_size=4)
watching = GradTraceCallback(path=folder / "run.db", stop_on="nonfinite", budget=1e6)
trainer = Trainer(
    max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_progress_bar=False,
    callbacks=[watching, ModelCheckpoint(folder / "saved", every_n_train_steps=1, save_top_k=-1)],
)
trainer.fit(Module(), batches)
(folder / f"rank{trainer.global_rank}").write_text(str(trainer.global_step))
"""


def test_a_nan_in_one_of_two_processes_stops_both_and_one_keeps_the_run(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path)]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert found.returncode == 0, found.stderr[-3000:]
    assert [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)] == ["5", "5"]
    assert gradtrace.load(tmp_path / "run.db").steps.first.tolist() == [0, 1, 2, 3, 4]
    assert poisoned(tmp_path / "saved") == []
    assert found.stderr.count("gradtrace, by step 4: critical: ") == 1


def test_the_old_package_takes_it_as_well(tmp_path):
    old: Any = pytest.importorskip("pytorch_lightning")

    class Old(old.LightningModule):  # type: ignore[name-defined]
        __init__, training_step = Module.__init__, Module.training_step
        configure_optimizers = Module.configure_optimizers

    callback = GradTraceCallback(budget=ALL)
    module = old.LightningModule.__new__(Old)
    nn.Module.__init__(module)
    old.LightningModule.__init__(module)
    module.early, module.late, module.bad, module.broken = nn.Linear(3, 8), nn.Linear(8, 1), -1, -1
    old.Trainer(max_epochs=1, logger=False, enable_progress_bar=False, enable_checkpointing=False, accelerator="cpu",
                enable_model_summary=False, callbacks=[callback]).fit(module, loader())  # fmt: skip
    assert len(callback.watch.run.steps.first) == 8
