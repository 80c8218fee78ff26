"""The callback in Lightning Fabric, run for real."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import nn

from gradtrace.integrations.fabric import GradTraceCallback
from gradtrace.records.run import Scalar

pytest.importorskip("lightning", reason="lightning is not installed: pip install '.[lightning]'")

from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger

ALL = 1e6
"""A budget that lets no step pass by."""


pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]  # of its own matters


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.early, self.late = nn.Linear(3, 8), nn.Linear(8, 1)

    def forward(self, x):
        return self.late(torch.tanh(self.early(x)))


def train(callback, *, accumulate=1, clip=None, bad=-1, broken=-1, loggers=None, precision="32-true"):
    fabric = Fabric(accelerator="cpu", devices=1, callbacks=[callback], loggers=loggers, precision=precision)
    model = Net()
    model, optimizer = fabric.setup(model, torch.optim.Adam(model.parameters(), 0.01))
    norms, batch = [], -1
    for batch in range(8):
        if batch == broken:
            raise RuntimeError("broken")
        loss = model(torch.randn(4, 3)).square().mean()
        fabric.backward(loss * torch.nan if batch == bad else loss)
        if (batch + 1) % accumulate == 0:
            if clip:
                norms.append(float(fabric.clip_gradients(model, optimizer, max_norm=clip)))
            optimizer.step()
            optimizer.zero_grad()
        if callback.must_stop:
            break
    callback.close()
    return norms, batch + 1, model


def rows(watch):
    steps = watch.run.steps
    return steps.first.tolist(), steps.scalar(Scalar.GRADIENT_NORM)[1], steps.scalar(Scalar.CLIPPED_NORM)[1]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_under_accumulation_and_clipping_each_optimizer_step_is_a_row_with_the_whole_gradient(accumulate):
    callback = GradTraceCallback(every=1, budget=ALL)
    norms, *_ = train(callback, accumulate=accumulate, clip=0.05)
    steps, gradient, clipped = rows(callback.watch)
    assert steps == list(range(8 // accumulate))
    assert gradient == pytest.approx(norms, rel=1e-4)
    assert (clipped <= 0.05 * 1.001).all()
    assert [p.name for p in callback.watch.run.header.parameters][:2] == ["early.weight", "early.bias"]


def test_bfloat16_needs_nothing_further():
    callback = GradTraceCallback(budget=ALL)
    train(callback, precision="bf16-mixed")
    assert rows(callback.watch)[0] == list(range(8))
    assert callback.watch.diagnosis.healthy


def test_numbers_go_to_its_loggers(tmp_path):
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    train(GradTraceCallback(budget=ALL), loggers=[logger])
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file) if row["gradtrace/gradient_norm"]] == list(range(8))


def test_findings_are_printed_and_the_loop_can_ask_whether_to_stop(capsys):
    _, num, model = train(GradTraceCallback(stop_on="nonfinite", budget=ALL), bad=4)
    assert num == 5
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert "gradtrace, by step 4: critical: " in capsys.readouterr().out


def test_two_models_that_are_set_up_are_both_watched():
    callback = GradTraceCallback(every=1, budget=ALL)
    fabric = Fabric(accelerator="cpu", devices=1, callbacks=[callback])
    pairs = [(net, torch.optim.SGD(net.parameters(), 0.01)) for net in (Net(), Net())]
    pairs = [fabric.setup(net, optimizer) for net, optimizer in pairs]
    for _ in range(4):
        for net, optimizer in pairs:
            optimizer.zero_grad()
            fabric.backward(net(torch.randn(4, 3)).square().mean())
            optimizer.step()
    callback.close()
    assert {p.optimizer for p in callback.watch.run.header.parameters} == {0, 1}
    assert len(callback.watch.run.header.parameters) == 8
    assert rows(callback.watch)[0] == list(range(4))


def test_two_optimizers_of_one_loss_are_one_row_from_the_first_step_on():
    callback = GradTraceCallback(every=1, budget=ALL)
    fabric = Fabric(accelerator="cpu", devices=1, callbacks=[callback])
    nets = nn.Linear(3, 3), Net()
    (early, first), (late, second) = [
        fabric.setup(net, kind(net.parameters(), 0.01))
        for net, kind in zip(nets, (torch.optim.SGD, torch.optim.Adam), strict=True)
    ]
    for _ in range(4):
        fabric.backward(late(early(torch.randn(4, 3))).square().mean())
        for optimizer in (first, second):
            optimizer.step()
            optimizer.zero_grad()
    callback.close()
    assert rows(callback.watch)[0] == list(range(4))
    assert callback.watch.run.header.parameters[0].name == "model.weight"


@pytest.mark.parametrize("attaches", [True, False])
def test_of_setup_module_fabric_tells_nobody_and_the_callback_says_what_to_do(attaches, recwarn):
    callback = GradTraceCallback(every=1, budget=ALL)
    fabric = Fabric(accelerator="cpu", devices=1, callbacks=[callback])
    nets = [fabric.setup_module(net) for net in (nn.Linear(3, 3), Net())]
    optimizers = fabric.setup_optimizers(*(torch.optim.SGD(net.parameters(), 0.01) for net in nets))
    if attaches:
        callback.attach(fabric, *nets)
    for _ in range(3):
        fabric.backward(nets[1](nets[0](torch.randn(4, 3))).square().mean())
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    callback.close()
    told = [str(each.message) for each in recwarn if "attach(fabric, model)" in str(each.message)]
    assert len(told) == (0 if attaches else 1)
    assert callback.watch is None or rows(callback.watch)[0] == [0, 1, 2]
    assert (callback.watch is not None) is attaches


def test_an_exception_passes_and_close_ends_the_watch():
    callback = GradTraceCallback(budget=ALL)
    with pytest.raises(RuntimeError, match="broken"):
        train(callback, broken=3)
    callback.close(finished=False)
    assert (callback.watch.run.finished, len(rows(callback.watch)[0])) == (False, 3)
