"""The tracker beside accelerate's others, run for real."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn

from gradtrace.records.run import Scalar

accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed: pip install '.[accelerate]'")

from accelerate import Accelerator  # noqa: E402
from accelerate.state import AcceleratorState, GradientState, PartialState  # noqa: E402
from accelerate.tracking import GeneralTracker  # noqa: E402

from gradtrace.integrations.accelerate import GradTraceTracker  # noqa: E402

ALL = 1e6
"""A budget that lets no step pass by."""


pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]  # of their own matters


@pytest.fixture(autouse=True)
def _states():
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


class Other(GeneralTracker):
    """Keeps what it is given, by step."""

    name, requires_logging_directory, tracker = "other", False, None

    def __init__(self):
        super().__init__()
        self.given = {}

    def log(self, values, step=None, **_rest):
        self.given.setdefault(step, {}).update(values)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.early, self.late = nn.Linear(3, 8), nn.Linear(8, 1)

    def forward(self, x):
        return self.late(torch.tanh(self.early(x)))


def train(tracker, *others, bad=-1, broken=-1, num=8, at=0, clip=None, two=False, **options):
    """Returns the norms that clipping saw, and how many batches were trained on."""
    accelerator = Accelerator(log_with=[tracker, *others], cpu=True, **options)
    model = Net()
    parts = [model.early, model.late] if two else [model]
    batches: Any = torch.utils.data.DataLoader(torch.randn(4 * num, 3), batch_size=4)
    optimizers = [torch.optim.Adam(part.parameters(), 0.01) for part in parts]
    model, loader, *optimizers = accelerator.prepare(model, batches, *optimizers)
    accelerator.init_trackers("project")
    tracker.attach(accelerator, at=at)
    norms, batch = [], -1
    for batch, x in enumerate(loader):
        with accelerator.accumulate(model):
            if batch == broken:
                raise RuntimeError("broken")
            loss = model(x).square().mean()
            accelerator.backward(loss * torch.nan if batch == bad else loss)
            if clip and accelerator.sync_gradients:
                norms.append(float(accelerator.clip_grad_norm_(model.parameters(), clip)))
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        accelerator.log({"mine": loss.item()}, step=at + batch)
        if accelerator.check_trigger():
            break
    accelerator.end_training()
    return norms, batch + 1, accelerator.unwrap_model(model)


def rows(watch):
    steps = watch.run.steps
    return steps.first.tolist(), steps.scalar(Scalar.GRADIENT_NORM)[1], steps.scalar(Scalar.CLIPPED_NORM)[1]


def test_a_tracker_that_is_attached_to_nothing_says_so_once(recwarn):
    accelerator = Accelerator(log_with=[GradTraceTracker()], cpu=True)
    accelerator.init_trackers("project")
    for step in range(2):
        accelerator.log({"loss": 1.0}, step=step)
    assert len([each for each in recwarn if "say tracker.attach(accelerator) once" in str(each.message)]) == 1
    accelerator.end_training()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_under_accumulation_and_clipping_each_optimizer_step_is_a_row_with_the_whole_gradient(accumulate):
    tracker = GradTraceTracker(every=1, budget=ALL)
    norms, *_ = train(tracker, clip=0.05, gradient_accumulation_steps=accumulate)
    steps, gradient, clipped = rows(tracker.watch)
    assert steps == list(range(8 // accumulate))
    assert gradient == pytest.approx(norms, rel=1e-4)
    assert (clipped <= 0.05 * 1.001).all()


def test_layers_have_the_users_names_and_two_optimizers_are_one_row():
    tracker = GradTraceTracker(every=1, budget=ALL)
    train(tracker, two=True)
    assert [(p.name, p.optimizer) for p in tracker.watch.run.header.parameters] == [
        ("early.weight", 0), ("early.bias", 0), ("late.weight", 1), ("late.bias", 1)
    ]  # fmt: skip
    assert rows(tracker.watch)[0] == list(range(8))


def test_bfloat16_needs_nothing_further():
    tracker = GradTraceTracker(budget=ALL)
    train(tracker, mixed_precision="bf16")
    assert rows(tracker.watch)[0] == list(range(8))
    assert tracker.tracker is tracker.watch
    assert tracker.watch.diagnosis.healthy


def test_the_other_trackers_get_the_numbers_at_the_loops_own_step():
    other = Other()
    train(GradTraceTracker(budget=ALL), other, at=20)
    assert set(other.given) == set(range(20, 28))
    assert all(given["gradtrace/loss"] == pytest.approx(given["mine"]) for given in other.given.values())


def test_findings_go_to_its_logger_and_the_trigger_stops_the_loop(caplog):
    tracker = GradTraceTracker(stop_on="nonfinite", budget=ALL)
    with caplog.at_level(logging.WARNING, "accelerate"):
        _, num, model = train(tracker, bad=4)
    assert num == 5
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert any("gradtrace, by step 4: critical: " in record.message for record in caplog.records)


def test_an_exception_passes_and_a_new_training_ends_the_watch():
    tracker = GradTraceTracker(budget=ALL)
    with pytest.raises(RuntimeError, match="broken"):
        train(tracker, broken=3)
    first = tracker.watch
    train(tracker)
    assert (first.run.finished, len(first.run.steps.first)) == (False, 3)
    assert len(tracker.watch.run.steps.first) == 8


def test_its_own_log_before_it_is_attached_is_no_error():
    tracker = GradTraceTracker(budget=ALL)
    tracker.store_init_configuration({"a": 1})
    tracker.log({"a": 1.0}, step=0)
    tracker.finish()
    assert tracker.watch is None
