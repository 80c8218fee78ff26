"""What the whole traces of a training show, seen together with the numbers of every step."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradtrace
from gradtrace.diagnosis.thresholds import SUSTAINED_ROWS
from gradtrace.monitor.recording.delivery import RECEIVED_TOGETHER
from gradtrace.monitor.schedule.cost import Level
from gradtrace.monitor.schedule.schedule import Schedule
from gradtrace.records.run import EventKind, Scalar
from gradtrace.records.vocabulary import Cause, Severity, Symptom


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.SGD])
def test_no_optimizer_evens_out_one_weight_applied_again_and_again(kind: type[torch.optim.Optimizer]) -> None:
    """Only the last step's part moves the recurrent weight, however the optimizer scales the whole."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": nn.RNN(2, 16, batch_first=True), "out": nn.Linear(16, 2)})
    nn.init.orthogonal_(model["rnn"].weight_hh_l0, gain=0.4)
    optimizer = kind(model.parameters(), lr=1e-3)  # type: ignore[call-arg]
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for _ in range(110):  # before a hundred the loss has not told whether the data asks for the early steps
            x = torch.randn(16, 40, 2)
            optimizer.zero_grad()
            F.cross_entropy(model["out"](model["rnn"](x)[0][:, -1]), (x[:, 0, 0] > 0).long()).backward()
            optimizer.step()
    finding = watch.diagnosis.findings[0]
    assert (finding.symptom, finding.cause) == (Symptom.VANISHING, Cause.RECURRENT_CONTRACTION)
    assert finding.severity is Severity.CRITICAL


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4))


def test_what_a_trace_shows_began_where_the_numbers_of_every_step_say() -> None:
    """The weights grow at a step between two whole traces, which see them at their next one."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    teacher = torch.randn(8, 4)
    with gradtrace.watch(model, optimizer, every=40, budget=10.0) as watch:
        for number in range(170):
            if number == 90:
                with torch.no_grad():
                    model[0].weight.mul_(300.0)
                    model[4].weight.mul_(100.0)  # the loss jumps, and the gradient with it
            x = torch.randn(64, 8)
            optimizer.zero_grad()
            F.cross_entropy(model(x), (x @ teacher).argmax(1)).backward()
            optimizer.step()
    finding = next(f for f in watch.diagnosis.findings if f.symptom is Symptom.SATURATED)
    assert finding.step is not None
    assert 90 <= finding.step <= 92


def test_saturation_is_a_remark_while_the_loss_keeps_falling() -> None:
    """A regression on signs, which a saturated tanh fits best."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
    with torch.no_grad():
        model[0].weight.mul_(12.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for _ in range(500):
            x = torch.randn(64, 4)
            optimizer.zero_grad()
            (model(x) - x[:, :1].sign()).square().mean().backward()
            optimizer.step()
    finding = next(f for f in watch.diagnosis.findings if f.symptom is Symptom.SATURATED)
    assert finding.severity is Severity.INFO
    assert "kept falling" in finding.message


@pytest.mark.parametrize("level", [Level.LISTEN, Level.REST])
def test_a_loss_that_jumps_is_measured_at_once_while_the_watch_listens_and_at_the_end_of_a_rest(
    level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = itertools.cycle([(level, 40), (Level.LISTEN, 10)])
    monkeypatch.setattr(Schedule, "_next", lambda self, step: next(turns))
    monkeypatch.setattr(Schedule, "_fits", lambda self, part, step: step == 0)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gradtrace.watch(model, optimizer) as watch:
        for number in range(460):
            optimizer.zero_grad()
            (model(torch.randn(64, 8)).square().mean() * (100.0 if number >= 385 else 1.0)).backward()
            optimizer.step()
    run = watch.run
    measured = run.steps.first[np.isfinite(run.steps.scalar(Scalar.GRADIENT_NORM)[1])]
    traced = [event.step for event in run.events if event.kind is EventKind.SAMPLE]
    late = [step for step in measured if step > 100]
    assert late[0] == 385 if level is Level.LISTEN else 385 <= late[0] <= 385 + 40
    assert late[0] + 1 in traced
    assert len(measured) < 100


@pytest.mark.parametrize("factor", [1e-5, 1e-2])
def test_a_layer_that_falls_far_behind_is_traced_soon_whatever_that_costs(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first trace was well, and no later one would have been affordable."""
    monkeypatch.setattr(Schedule, "_next", lambda self, step: (Level.MEASURE, 8))
    monkeypatch.setattr(Schedule, "_must_stop", lambda self, step: False)
    monkeypatch.setattr(Schedule, "_fits", lambda self, part, step: step == 0)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-7)  # or it would recover
    teacher = torch.randn(8, 4)
    with gradtrace.watch(model, optimizer) as watch:
        for number in range(120):
            if number == 50:
                with torch.no_grad():
                    model[2].weight.mul_(factor)
            x = torch.randn(64, 8)
            optimizer.zero_grad()
            F.cross_entropy(model(x), (x @ teacher).argmax(1)).backward()
            optimizer.step()
    traced = [event.step for event in watch.run.events if event.kind is EventKind.SAMPLE]
    assert len(traced) == (1 if factor > 1e-3 else 2)
    if factor < 1e-3:
        assert 55 <= traced[1] <= 55 + 2 * RECEIVED_TOGETHER
        first = watch.diagnosis.findings[0]
        assert (first.symptom, first.cause, first.where) == (Symptom.VANISHING, Cause.SMALL_WEIGHTS, ("2",))


@pytest.mark.parametrize("learns", [True, False])
def test_saturated_units_whose_loss_falls_all_the_same_are_a_remark(learns: bool) -> None:
    """Sigmoids at their ends are features still, which the layers behind them learn from."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(64, 64), nn.Sigmoid(), nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    prototypes = torch.randint(0, 256, (4, 64)).float()
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for _ in range(100):
            labels = torch.randint(4, (64,))
            x = (prototypes[labels] + 40.0 * torch.randn(64, 64)).clamp(0.0, 255.0)
            optimizer.zero_grad()
            F.cross_entropy(model(x), labels if learns else torch.randint(4, (64,))).backward()
            optimizer.step()
    finding = next(f for f in watch.diagnosis.findings if f.symptom is Symptom.SATURATED)
    assert finding.cause is Cause.INPUT_SCALE
    assert finding.severity is (Severity.INFO if learns else Severity.CRITICAL)  # it falls by two decades
    assert ("the training does not feel it" in finding.message) is learns


def test_what_gets_its_gradient_at_later_steps_alone_is_not_told_to_learn_nothing() -> None:
    """As the temperature of a soft actor-critic, which learns at every other step, from a pass of its own."""
    torch.manual_seed(0)
    model, temperature = network(), nn.Parameter(torch.zeros(1))
    optimizers = [torch.optim.Adam(held) for held in (model.parameters(), [temperature])]
    told = []
    with gradtrace.watch({"model": model, "temperature": temperature}, optimizers, every=10**6) as watch:
        for number in range(15):
            model.zero_grad()
            model(torch.randn(16, 8)).square().mean().backward()
            optimizers[0].step()
            if number >= 9:
                temperature.grad = None
                (temperature.exp() * 0.1).sum().backward()
                optimizers[1].step()
            told.append([f.message for f in watch.diagnosis.findings if f.symptom is Symptom.DISCONNECTED])
    assert any("temperature" in message for message in told[8])
    assert not told[-1]


@pytest.mark.parametrize(("num_later", "is_told"), [(2, False), (SUSTAINED_ROWS, True)])
def test_a_run_waits_before_it_says_so(num_later: int, is_told: bool) -> None:
    torch.manual_seed(0)
    model, temperature = network(), nn.Parameter(torch.zeros(1))
    optimizers = [torch.optim.Adam(held) for held in (model.parameters(), [temperature])]
    watch = gradtrace.watch({"model": model, "temperature": temperature}, optimizers, budget=10.0).start()
    for _ in range(2 + num_later):  # the first is traced, the last not over
        model.zero_grad()
        model(torch.randn(16, 8)).square().mean().backward()
        optimizers[0].step()
    watch.receive()
    assert any("temperature" in f.message for f in watch._recording.judge(num_later)) is is_told
    watch.close()
