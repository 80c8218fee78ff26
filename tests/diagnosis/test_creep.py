"""Steps that do next to nothing where the loss would follow; and steps that are small for a good reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.records.vocabulary import Cause, Severity, Symptom


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def batches():
    return [(x, x[:, :4].argmax(1)) for x in torch.randn(2, 64, 16)]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def told(model, optimizer, data=None):
    found = gradtrace.check(model, cross_entropy, data or batches(), optimizer=optimizer).findings
    return [f for f in found if (f.symptom, f.cause) == (Symptom.UNDERFLOW, Cause.LEARNING_RATE)]


SMALL = {
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-7),
    "SGD with momentum": lambda p: torch.optim.SGD(p, lr=1e-6, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-7),
}
USUAL = {
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-2),
    "SGD with momentum": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-5),
}


@pytest.mark.parametrize("kind", SMALL)
def test_a_rate_that_does_next_to_nothing_is_told_and_what_a_usual_one_does(model, kind):
    (finding,) = told(model, SMALL[kind](model.parameters()))
    assert finding.severity is Severity.WARNING
    assert "100 steps at" in finding.message
    assert finding.evidence[0].value < 1e-5
    assert "Raise the learning rate" in finding.remedies[0].title


@pytest.mark.parametrize("kind", USUAL)
def test_a_usual_rate_is_not(model, kind):
    assert told(model, USUAL[kind](model.parameters())) == []


def test_nor_is_one_that_a_warm_up_holds_back(model):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1e-4, total_iters=1000)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-7)
    assert told(model, optimizer) == []


def test_nor_the_last_steps_of_what_has_learnt(model):
    data = batches()
    quick = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(100):
        quick.zero_grad()
        cross_entropy(model, data[step % 2]).backward()
        quick.step()
    assert told(model, torch.optim.Adam(model.parameters(), lr=1e-7), data) == []


def test_nor_where_no_rate_brings_the_loss_down(model):
    nothing = [(torch.zeros(64, 16), torch.arange(64) % 4) for _ in range(2)]
    nn.init.zeros_(model[-1].bias)
    assert told(model, torch.optim.Adam(model.parameters(), lr=1e-7), nothing) == []


def test_fix_raises_it(model):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-7)
    repair = gradtrace.fix(model, cross_entropy, batches(), optimizer, steps=60, seeds=2, time_budget_s=3600)
    assert repair.best is not None
    assert repair.best.title.startswith("Raise the learning rate from 1e-07 to ")
    assert not any(trial.title.startswith("Lower") for trial in repair.trials)


def test_an_eps_above_the_gradients_is_named(model):
    (finding,) = told(model, torch.optim.Adam(model.parameters(), lr=1e-6, eps=0.3))
    assert "below eps (0.3)" in finding.message


def test_an_eps_that_swallows_the_steps_is_told_as_that_alone_and_fix_lowers_it(model):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=100.0)
    assert told(model, optimizer) == []
    found = gradtrace.check(model, cross_entropy, batches(), optimizer=optimizer).findings
    assert [(f.symptom, f.cause) for f in found] == [(Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT)]
    repair = gradtrace.fix(model, cross_entropy, batches(), optimizer, steps=60, seeds=2, time_budget_s=3600)
    assert any(trial.title.startswith("Lower the optimizer's eps from 100 to ") for trial in repair.trials)
