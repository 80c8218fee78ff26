"""The rate of our own optimizer: one that was run, at which something learns, the same for all, and named."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

import gradtrace
from gradtrace.records.change import Change
from gradtrace.records.finding import Diagnosis
from gradtrace.repair.changes import rate as rate_change
from gradtrace.repair.given import DEFAULT_RATE, our_optimizer
from gradtrace.repair.learning_rate import RATES, FoundRate, range_test
from gradtrace.repair.situation import Situation


class Regression(nn.Module):
    """Least squares with a known curvature: L = mean (w x - t)^2, d2L/dw2 = 2 E[x^2]."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1, 1))

    def forward(self, x):
        return x @ self.w


def squares(model, batch):
    return F.mse_loss(model(batch), 3.0 * batch)


def situation(scale, steps=20):
    torch.manual_seed(0)
    x = torch.randn(64, 1)
    batches = [scale * x / x.square().mean().sqrt()] * 4
    model = Regression()
    ours = our_optimizer(model, DEFAULT_RATE)
    return Situation(model, squares, batches, [ours], Diagnosis(()), steps=steps, unchanged_rate=DEFAULT_RATE)


def found(scale, steps=20, changes=(), cost=0.0, left=60.0):
    said: list[str] = []
    return range_test(situation(scale, steps), changes, cost, left, said.append), said


def heavy_ball(rate, curvature, steps=20):
    """The loss after these steps, of that at the start (Polyak 1964): w' = -rate v, v = 0.9 v + curvature w."""
    w, v = 1.0, 0.0
    for _ in range(steps):
        v = 0.9 * v + curvature * w
        w -= rate * v
    return w * w


@pytest.mark.parametrize("scale", [1.0, 100.0, 0.1, 0.03])
def test_it_follows_the_curvature(scale):
    curvature = 2.0 * scale**2
    ends = {rate: heavy_ball(rate, curvature) for rate in RATES}
    learning = [rate for rate in RATES if ends[rate] < 0.8]
    rate, _ = found(scale)
    assert rate.rate == min(learning, key=lambda one: abs(round(math.log10(one / DEFAULT_RATE))))
    assert rate.rate < 2 * 1.9 / curvature  # beyond it a step with momentum 0.9 is not stable
    assert ends[rate.unchanged] <= 1.02 * min(ends.values())


def test_the_usual_rate_stays_where_it_learns_and_where_nothing_does():
    assert found(1.0)[0].rate == DEFAULT_RATE
    still, _ = found(0.0)
    assert still == FoundRate(DEFAULT_RATE, DEFAULT_RATE, still.told)
    assert "nothing learns at any" in still.told


def test_the_same_again_and_nothing_of_the_user_is_touched():
    here = situation(100.0)
    state = torch.get_rng_state()
    first, second = (range_test(here, [], 0.0, 60.0, lambda _: None) for _ in range(2))
    assert first == second
    assert torch.equal(state, torch.get_rng_state())
    assert here.model.w.item() == 0.0
    assert here.model.w.grad is None
    assert here.optimizers[0].param_groups[0]["lr"] == DEFAULT_RATE


@pytest.mark.parametrize("left", [60.0, 0.0, -1000.0])
def test_where_it_costs_too_much_the_usual_rate_is_used_and_that_is_said(left):
    rate, said = found(100.0, cost=1.0, left=left)
    assert (rate.rate, rate.unchanged) == (DEFAULT_RATE, DEFAULT_RATE)
    assert "untried: 140 steps take 140 s" in rate.told
    assert said == []


def test_with_time_for_the_unchanged_network_alone_nothing_is_decided_where_there_are_changes():
    unfit = Change("activation", "", ("nowhere",), words=(("target", "ReLU"), ("function", "sigmoid")))
    alone, _ = found(100.0, cost=1.0, left=1000.0)
    assert alone.rate < DEFAULT_RATE
    beside, _ = found(100.0, changes=[unfit], cost=1.0, left=1000.0)
    assert beside.rate == DEFAULT_RATE
    assert "untried: 280 steps take 280 s" in beside.told


def test_no_more_steps_than_a_trial_has():
    rate, _ = found(1.0, steps=3)
    assert "outwards for 3 steps" in rate.told


def test_the_rate_of_the_unchanged_network_is_the_only_one_that_is_proposed():
    here = FoundRate(0.1, 0.001, "").into(situation(1.0))
    assert here.optimizers[0].param_groups[0]["lr"] == 0.1
    (change,) = rate_change.KIND.propose(here)
    assert change.title == "Lower the learning rate from 0.1 to 0.001."
    assert change.number("factor") == pytest.approx(0.01)
    for unchanged in (0.1, 1.0):
        assert rate_change.KIND.propose(FoundRate(0.1, unchanged, "").into(situation(1.0))) == []


def test_a_higher_rate_at_which_the_changes_may_do_better_as_well_is_told():
    assert FoundRate(0.1, 0.1, "").notes == FoundRate(0.1, 0.001, "").notes == ()
    (note,) = FoundRate(0.01, 0.1, "").notes
    assert "does better at a learning rate of 0.1;" in note


def test_a_change_that_does_not_fit_decides_nothing():
    unfit = Change("activation", "", ("nowhere",), words=(("target", "ReLU"), ("function", "sigmoid")))
    rate, _ = found(100.0, changes=[unfit])
    assert rate.rate == DEFAULT_RATE  # no change learns, and what the unchanged network does is its own matter
    assert rate.unchanged < DEFAULT_RATE


def test_the_value_is_in_the_record_on_the_page_and_that_of_every_trial(tmp_path):
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (nn.Linear(16, 16), nn.Sigmoid())]
    model = nn.Sequential(*layers, nn.Linear(16, 2))
    batches = [(x, (x[:, 0] > 0).long()) for x in torch.randn(2, 64, 16)]

    def cross_entropy(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    rates = set()

    def noted(optimizer, *_):
        rates.add(optimizer.param_groups[0]["lr"])

    handle = register_optimizer_step_pre_hook(noted)
    try:
        first = gradtrace.fix(model, cross_entropy, batches, steps=20, seeds=2, time_budget_s=3600)
        assert rates <= set(RATES)
        rates.clear()
        second = gradtrace.fix(model, cross_entropy, batches, steps=20, seeds=2, time_budget_s=3600)
    finally:
        handle.remove()
    assert first.optimizer == second.optimizer
    assert [t.end for t in first.trials] == [t.end for t in second.trials]
    used = float(first.optimizer.partition("lr=")[2].partition(",")[0])
    assert used in RATES
    assert first.optimizer.startswith(f"SGD(lr={used:g}, momentum=0.9), since none was given: ")
    first.save(tmp_path / "repair.json.gz")
    assert gradtrace.load(tmp_path / "repair.json.gz").optimizer == first.optimizer
    assert f"lr={used:g}" in first._repr_html_()
    first.report(tmp_path / "repair.html")
    assert f"lr={used:g}" in (tmp_path / "repair.html").read_text(encoding="utf-8")
