"""The rate of our own optimizer: one that was run, at which something learns, the same for all, and named."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

import gradtrace
from gradtrace.records.change import Change
from gradtrace.records.finding import Diagnosis, Finding
from gradtrace.records.repair import Outcome, Role, Trial
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.repair import trials
from gradtrace.repair.changes import rate as rate_change
from gradtrace.repair.given import DEFAULT_RATE, our_optimizer
from gradtrace.repair.learning_rate import HIGHER, PART, RATES, USUAL, Run, best_of, range_test
from gradtrace.repair.situation import Situation
from gradtrace.repair.trials import Course
from gradtrace.report.repair import to_text


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
    return Situation(model, squares, batches, [ours], Diagnosis(()), steps=steps, is_rate_ours=True)


def found(scale, steps=20, cost=0.0, left=60.0):
    said: list[str] = []
    return range_test(situation(scale, steps), cost, left, said.append), said


def scaled_down(by):
    """The input over `by`: what learns at a rate of one as it came then learns at one of by^2."""
    words, numbers = (("what", "inputs"),), (("mean", 0.0), ("std", by))
    return Trial(f"x / {by}", Role.CANDIDATE, (Change("scale", "", ("input",), words=words, numbers=numbers),))


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
    best = best_of(lambda rate: Run(rate, 1.0, ends[rate]))
    test, _ = found(scale)
    test.rates = RATES
    assert test(scaled_down(1.0)) == best.rate
    assert best.learns
    assert best.rate < 2 * 1.9 / curvature  # beyond it a step with momentum 0.9 is not stable


def test_each_network_has_its_own_rate_and_one_draw_of_the_same_law_that_of_the_unchanged():
    test, _ = found(30.0)
    test.test([scaled_down(30.0)])
    assert test.rates == USUAL
    assert test(scaled_down(30.0)) > test.unchanged.rate
    for same in (Trial("", Role.ORIGINAL), Trial("", Role.PLACEBO, (Change("placebo", "", ()),))):
        assert test(same) == test.unchanged.rate


def test_where_no_change_learns_at_a_usual_rate_all_are_tried():
    test, _ = found(100.0)
    test.test([scaled_down(2.0)])
    assert test.rates == RATES
    assert test.unchanged.rate < min(USUAL)
    assert test(scaled_down(2.0)) < min(USUAL)


def test_of_a_loss_in_small_units_higher_rates_are_tried():
    test, _ = found(1e-3)
    test.test([scaled_down(1.0)])
    assert test.rates == HIGHER
    assert test(scaled_down(1.0)) > max(RATES)
    assert test.found["x / 1.0"].learns


def test_a_rate_below_the_usual_ones_at_which_the_network_as_it_came_learns_is_told():
    test, _ = found(100.0)
    test.test([scaled_down(100.0)])
    assert not test.unchanged.learns
    (note,) = test.notes()
    assert note == "at a learning rate of 0.0001 the network as it came learns too"
    test, _ = found(1.0)
    test.test([scaled_down(1.0)])
    assert test.notes() == ()


@pytest.mark.parametrize("kind", ["warmup", "clipping", "eps"])
def test_what_changes_the_steps_has_the_rate_that_it_is_written_for(kind):
    test, _ = found(100.0)
    test.test([scaled_down(100.0)])
    left = test.left
    assert test(Trial("steps", Role.CANDIDATE, (Change(kind, "", ("optimizer",)),))) == test.unchanged.rate
    assert test.left == left


def test_what_is_trained_in_full_is_tested_over_as_many_steps_as_the_network_as_it_came():
    test, _ = found(1.0, steps=200)
    before = test.left
    test(scaled_down(1.0))
    assert before - test.left == 50 * 3
    test(scaled_down(1.0), is_final=True)
    assert before - test.left == 50 * 3 + 200 * 3
    test(scaled_down(1.0), is_final=True)
    assert before - test.left == 50 * 3 + 200 * 3


def test_a_rate_at_which_another_seed_breaks_is_lowered_until_it_is_settled():
    test, _ = found(1.0)
    test.test([scaled_down(1.0)])
    usual = test.unchanged.rate
    original, clipped = Trial("", Role.ORIGINAL), Trial("c", Role.CANDIDATE, (Change("clipping", "", ("optimizer",)),))
    assert test.lower(original)
    assert test.lower(scaled_down(1.0))
    assert test(original) == test(scaled_down(1.0), is_final=True) == pytest.approx(usual / 10)
    assert test(clipped) == usual  # it is written for that
    assert not test.lower(clipped)
    test.settled.add(original.title)
    assert not test.lower(original)


def test_what_breaks_with_one_of_its_seeds_is_trained_at_a_lower_rate():
    test, _ = found(1.0)
    test.test([scaled_down(1.0)])
    rates = []

    def trained(twin, plan, seed):
        rate = twin.optimizers[0].param_groups[0]["lr"]
        rates.append(rate)
        bad = int(seed == 2 and rate > min(USUAL))
        return Outcome(seed, ((0, 1.0), (plan.steps, math.inf if bad else 0.5)), nonfinite_steps=bad)

    course = Course(situation(1.0), 3, 20, [], "", math.inf, lambda _: None, rates=test)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "train", trained)
        done = course.run(scaled_down(1.0), seeds=range(3), steps=20)
    assert done.rate == rates[-1] == min(USUAL)
    assert [outcome.end for outcome in done.outcomes] == [0.5] * 3


def test_nothing_is_tested_twice():
    test, _ = found(100.0)
    test(scaled_down(100.0))
    left = test.left
    test(scaled_down(100.0))
    assert test.left == left


def test_the_usual_rate_stays_where_nothing_learns():
    test, _ = found(0.0)
    test.test([scaled_down(1.0)])
    assert test.unchanged.rate == test(scaled_down(1.0)) == DEFAULT_RATE


@pytest.mark.parametrize("broken", [math.inf, 2.0])
def test_it_looks_beyond_rates_at_which_nothing_learns(broken):
    """As ReLUs that die at every rate but the lowest ones."""
    assert best_of(lambda rate: Run(rate, 2.0, 0.1 if rate < 1e-4 else broken)).rate == 1e-5


def test_the_same_again_and_nothing_of_the_user_is_touched():
    here = situation(100.0)
    state = torch.get_rng_state()
    first, second = (range_test(here, 0.0, 60.0, lambda _: None) for _ in range(2))
    first.test([])
    second.test([])
    assert first.optimizer == second.optimizer
    assert first(scaled_down(10.0)) == second(scaled_down(10.0))
    assert torch.equal(state, torch.get_rng_state())
    assert here.model.w.item() == 0.0
    assert here.model.w.grad is None
    assert here.optimizers[0].param_groups[0]["lr"] == DEFAULT_RATE


@pytest.mark.parametrize("left", [60.0, 0.0, -1000.0])
def test_where_it_costs_too_much_the_usual_rate_is_used_and_that_is_said(left):
    test, said = found(100.0, cost=1.0, left=left)
    test.test([scaled_down(100.0)])
    assert (test.unchanged.rate, test(scaled_down(100.0))) == (DEFAULT_RATE, DEFAULT_RATE)
    assert "no time to test any other rate" in test.optimizer
    assert test.notes() == ()
    assert said == []


def test_what_there_is_no_time_to_test_has_the_rate_of_its_like():
    test, _ = found(10.0, cost=1.0, left=300.0 / PART)
    tested = test(scaled_down(100.0))
    test.left = 0
    assert test(scaled_down(50.0)) == tested
    assert test(Trial("other", Role.CANDIDATE, (Change("norm", "", ()),))) == tested


def test_no_more_steps_than_a_trial_has():
    assert "by 3 steps" in found(1.0, steps=3)[0].optimizer


def test_no_rate_is_proposed_where_each_network_has_its_own():
    here = replace(
        situation(1.0),
        diagnosis=Diagnosis((Finding(Symptom.EXPLODING, Cause.LEARNING_RATE, (), Severity.CRITICAL, ""),)),
    )
    assert rate_change.KIND.propose(here) == []
    assert rate_change.KIND.propose(replace(here, is_rate_ours=False)) != []


def test_a_change_that_does_not_fit_breaks_nothing():
    unfit = Change("activation", "", ("nowhere",), words=(("target", "ReLU"), ("function", "sigmoid")))
    assert found(100.0)[0](Trial("unfit", Role.CANDIDATE, (unfit,))) == DEFAULT_RATE


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
    assert first.optimizer.startswith("SGD(momentum=0.9), since none was given, each network at its own best")
    assert all(trial.rate in RATES for trial in first.trials)
    first.save(tmp_path / "repair.json.gz")
    again = gradtrace.load(tmp_path / "repair.json.gz")
    assert again.optimizer == first.optimizer
    assert [t.rate for t in again.trials] == [t.rate for t in first.trials]
    told = " ".join(to_text(first).split())
    assert f"Train it at a learning rate of {first.best.rate:g}; the network as it came did best at " in told
    assert "each network at its own best learning rate" in " ".join(first._repr_html_().split())
    first.report(tmp_path / "repair.html")
    assert "each network at its own best learning rate" in (tmp_path / "repair.html").read_text(encoding="utf-8")
