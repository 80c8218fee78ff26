"""Changes of the steps: warm-up as it is recommended, clipping by what was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.errors import InputError
from gradtrace.records.finding import Diagnosis, Evidence, Finding
from gradtrace.records.repair import Role, Trial
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.repair.changes import clipping, warmup
from gradtrace.repair.situation import Situation


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def situation(symptom, cause, optimizer_class=torch.optim.SGD, rate=0.1, evidence=()):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2))
    batches = [(x, (x[:, 0] > 0).long()) for x in torch.randn(4, 32, 16)]
    optimizer = optimizer_class(model.parameters(), lr=rate)
    traces = gradtrace.check(model, cross_entropy, batches).traces
    finding = Finding(symptom, cause, ("0",), Severity.CRITICAL, "told", tuple(evidence))
    return Situation(model, cross_entropy, batches, [optimizer], Diagnosis((finding,), traces))


def trial_of(change):
    return Trial(change.title, Role.CANDIDATE, (change,))


def rates_of(optimizer, steps):
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    return found


def test_the_schedule_that_is_tried_is_the_code_that_is_recommended():
    here = replace(situation(Symptom.EXPLODING, Cause.LEARNING_RATE, torch.optim.Adam, 0.4), steps=20)
    (change,) = warmup.KIND.propose(here)
    assert change.title == "Warm the learning rate up over 5 steps, from 0.08 to 0.4."
    model, _, tried = trial_of(change).apply(here.model, here.loss_fn, here.optimizers[0])
    cross_entropy(model, here.batches[0]).backward()
    told = rates_of(tried, 8)
    assert told == pytest.approx([0.08, 0.144, 0.208, 0.272, 0.336, 0.4, 0.4, 0.4])
    assert told == pytest.approx([0.4 * warmup.factor_at(change)(step) for step in range(8)])
    other = torch.optim.Adam(model.parameters(), lr=0.4)
    exec(change.code, {"torch": torch, "optimizer": other})
    assert rates_of(other, 8) == pytest.approx(told)
    assert here.optimizers[0].param_groups[0]["lr"] == 0.4


def test_a_first_step_that_is_known_to_be_long_begins_lower():
    ratio = Evidence("update to weight ratio of the first step", 0.1)
    here = situation(Symptom.EXPLODING, Cause.LEARNING_RATE, evidence=[ratio])
    (change,) = warmup.KIND.propose(here)
    assert change.number("start") == 0.01  # a thousandth is usual, a tenth was measured
    assert change.number("steps") == here.steps // 4


def test_no_warm_up_where_steps_are_not_to_blame_or_are_not_taken():
    assert warmup.KIND.propose(situation(Symptom.VANISHING, Cause.SMALL_WEIGHTS)) == []
    bare = replace(situation(Symptom.EXPLODING, Cause.LEARNING_RATE), optimizers=[])
    assert warmup.KIND.propose(bare) == []


@pytest.mark.parametrize("kind", [warmup.KIND, clipping.KIND])
def test_without_an_optimizer_it_is_refused(kind):
    here = situation(Symptom.EXPLODING, Cause.LEARNING_RATE)
    for change in kind.propose(here):
        with pytest.raises(InputError, match="there is no optimizer"):
            trial_of(change).apply(here.model, here.loss_fn, None)


def test_the_threshold_is_the_usual_norm_of_the_batches_without_the_growth():
    here = situation(Symptom.EXPLODING, Cause.LARGE_WEIGHTS)
    norms = clipping.norms_of(here)
    assert len(norms) == len(here.batches)
    by_hand = []
    for batch in here.batches:
        here.model.zero_grad()
        cross_entropy(here.model, batch).backward()
        by_hand.append(float(torch.cat([p.grad.flatten() for p in here.model.parameters()]).norm()))
    assert norms == pytest.approx(by_hand, rel=1e-5)
    median = sorted(norms)[1] / 2 + sorted(norms)[2] / 2
    by_norm, adaptive = clipping.KIND.propose(here)
    assert by_norm.number("most") == pytest.approx(min(median, 1.0), rel=0.5)
    grown = situation(Symptom.EXPLODING, Cause.LARGE_WEIGHTS, evidence=[Evidence("early against late (norm)", 2.0)])
    assert clipping.KIND.propose(grown)[0].number("most") == pytest.approx(median / 100.0, rel=0.5)
    assert adaptive.number("most") == 0.1  # of the weights, times a rate of 0.1


def test_adaptive_clipping_is_for_plain_steps():
    assert len(clipping.KIND.propose(situation(Symptom.EXPLODING, Cause.LARGE_WEIGHTS, torch.optim.Adam))) == 1


@pytest.mark.parametrize("place", [0, 1])
def test_what_is_clipped_is_what_the_code_clips(place):
    here = situation(Symptom.EXPLODING, Cause.LARGE_WEIGHTS)
    change = clipping.KIND.propose(here)[place]
    updates = []
    for is_code in (False, True):
        model, _, optimizer = trial_of(change).apply(here.model, here.loss_fn, here.optimizers[0])
        if is_code:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            exec(change.code, {"torch": torch, "optimizer": optimizer, "model": model})
        for parameter in model.parameters():
            parameter.grad = torch.linspace(-50.0, 50.0, parameter.numel()).view_as(parameter)
        optimizer.step()
        updates.append([b - a for a, b in zip(here.model.parameters(), model.parameters(), strict=True)])
    for tried, told in zip(*updates, strict=True):
        assert torch.equal(tried, told)
    if place == 1:
        for before, moved in zip(here.model.parameters(), updates[0], strict=True):
            if before.dim() > 1:
                assert (moved.norm(dim=1) <= 0.1 * 0.1 * before.norm(dim=1) * 1.001).all()
