"""The handler on Ignite's engine, run for real."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from gradtrace.records.run import Scalar

pytest.importorskip("ignite", reason="ignite is not installed: pip install '.[ignite]'")

from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver

from gradtrace.integrations.ignite import GradTrace

ALL = 1e6
"""A budget that lets no step pass by."""


pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]  # of its own matters


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.early, self.late = nn.Linear(3, 8), nn.Linear(8, 1)

    def forward(self, x):
        return self.late(torch.tanh(self.early(x)))


def make(*, accumulate=1, clip=None, two=False, bad=-1, broken=-1, autocast=False):
    model = Net()
    parts = [model.early, model.late] if two else [model]
    optimizers = [torch.optim.Adam(part.parameters(), 0.01) for part in parts]
    norms = []

    def update(engine, x):
        number = engine.state.iteration - 1
        if number == broken:
            raise RuntimeError("broken")
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(x).square().mean() / accumulate
        (loss * torch.nan if number == bad else loss).backward()
        if (number + 1) % accumulate == 0:
            if clip:
                norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), clip)))
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        return loss.item()

    return model, optimizers, Engine(update), norms


BATCHES = torch.randn(8, 4, 3)


def rows(watch):
    steps = watch.run.steps
    return steps.first.tolist(), steps.scalar(Scalar.GRADIENT_NORM)[1], steps.scalar(Scalar.CLIPPED_NORM)[1]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_under_accumulation_and_clipping_each_optimizer_step_is_a_row_with_the_whole_gradient(accumulate):
    model, optimizers, engine, norms = make(accumulate=accumulate, clip=0.05)
    handler = GradTrace(model, optimizers, every=1, budget=ALL).attach(engine)
    engine.run(BATCHES)
    steps, gradient, clipped = rows(handler.watch)
    assert steps == list(range(8 // accumulate))
    assert gradient == pytest.approx(norms, rel=1e-4)
    assert (clipped <= 0.05 * 1.001).all()


def test_layers_have_the_users_names_and_two_optimizers_are_one_row():
    model, optimizers, engine, _ = make(two=True)
    handler = GradTrace(model, optimizers, budget=ALL).attach(engine)
    engine.run(BATCHES)
    assert [(p.name, p.optimizer) for p in handler.watch.run.header.parameters] == [
        ("early.weight", 0), ("early.bias", 0), ("late.weight", 1), ("late.bias", 1)
    ]  # fmt: skip
    assert rows(handler.watch)[0] == list(range(8))


def test_autocast_needs_nothing_further():
    model, optimizers, engine, _ = make(autocast=True)
    handler = GradTrace(model, optimizers, budget=ALL).attach(engine)
    engine.run(BATCHES)
    assert rows(handler.watch)[0] == list(range(8))
    assert handler.watch.diagnosis.healthy


def test_numbers_are_where_its_loggers_and_its_bar_take_them_from():
    model, optimizers, engine, _ = make()
    GradTrace(model, optimizers, budget=ALL).attach(engine)
    engine.run(BATCHES.repeat(5, 1, 1))
    assert 0.0 < engine.state.metrics["gradtrace/gradient_norm"] < 10.0


def test_a_resumed_engine_goes_on_at_its_iteration():
    model, optimizers, engine, _ = make()
    handler = GradTrace(model, optimizers, budget=ALL).attach(engine)
    engine.load_state_dict({"epoch_length": 8, "max_epochs": 2, "iteration": 8})
    engine.run(BATCHES, max_epochs=2)
    assert "this is step 8 of the trainer" in [event.message for event in handler.watch.run.events]
    assert len(rows(handler.watch)[0]) == 8


@pytest.mark.parametrize("stop_on", [None, "nonfinite"])
def test_stopping_comes_before_a_poisoned_checkpoint_is_written(stop_on, tmp_path, caplog):
    model, optimizers, engine, _ = make(bad=4)
    handler = GradTrace(model, optimizers, stop_on=stop_on, budget=ALL).attach(engine)
    saving = Checkpoint({"model": model}, DiskSaver(tmp_path, create_dir=True, require_empty=False), n_saved=None)
    engine.add_event_handler(Events.ITERATION_COMPLETED, saving)
    with caplog.at_level(logging.WARNING):
        engine.run(BATCHES)
    saved = [value for path in tmp_path.glob("*.pt") for value in torch.load(path).values()]
    assert saved
    assert all(torch.isfinite(value).all() for value in saved) is (stop_on is not None)
    assert engine.state.iteration == (8 if stop_on is None else 5)
    assert handler.watch.run.finished
    assert any("gradtrace, by step 4: critical: " in record.message for record in caplog.records)


def test_findings_go_to_the_bar_that_is_given(caplog):
    class Bar:
        told = []  # noqa: RUF012

        def log_message(self, message):
            self.told.append(message)

    model, optimizers, engine, _ = make(bad=4)
    GradTrace(model, optimizers, budget=ALL).attach(engine, Bar())
    engine.run(BATCHES)
    assert Bar.told[0].startswith("gradtrace, by step 4: critical: ")


def test_an_exception_passes_unless_somebody_else_handles_it():
    model, optimizers, engine, _ = make(broken=3)
    handler = GradTrace(model, optimizers, budget=ALL).attach(engine)
    with pytest.raises(RuntimeError, match="broken"):
        engine.run(BATCHES)
    assert (handler.watch.run.finished, len(rows(handler.watch)[0])) == (False, 3)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

    model, optimizers, engine, _ = make(broken=3)
    GradTrace(model, optimizers, budget=ALL).attach(engine)
    seen = []
    engine.add_event_handler(Events.EXCEPTION_RAISED, lambda _engine, error: seen.append(str(error)))
    engine.run(BATCHES)
    assert seen == ["broken"]
