"""Trials twice as long: where nothing is proven and nothing is known, and never beyond the time or what was asked."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.records.repair import Outcome, Role, Trial
from gradtrace.repair import pace as pace_module
from gradtrace.repair.longer import constant_of, run_until_told
from gradtrace.repair.pace import Pace
from gradtrace.repair.training import OutOfTime
from gradtrace.repair.trials import ORIGINAL
from gradtrace.repair.verdicts import NOT_BEYOND_CHANCE


def trials(*ends, proven=False, verdict=""):
    outcomes = tuple(Outcome(seed, ((0, 2.3), (20, end))) for seed, end in enumerate(ends))
    tried = Trial("it", Role.CANDIDATE, (), outcomes, proven=proven, verdict=verdict)
    return [Trial(ORIGINAL, Role.ORIGINAL, outcomes=outcomes), tried]


UNKNOWN, KNOWN = (2.2, 2.4, 2.3), (1.0, 1.1, 1.05)


def told(
    ranked,
    *,
    most=math.inf,
    left_s=100.0,
    step_s=0.1,
    fails_at=math.inf,
    proven_at=math.inf,
    shortens=False,
    constant=math.inf,
):
    """The lengths that were run, and what came of it."""
    course = SimpleNamespace(steps=20, notes=[], deadline=time.perf_counter() + left_s)
    lengths = []

    def run(pace):
        assert course.steps == pace.steps
        lengths.append(pace.steps)
        if pace.steps >= fails_at:
            course.notes.append("half of it")
            raise OutOfTime
        if shortens:
            course.steps = pace.steps - 1
        return trials(*KNOWN, proven=True) if pace.steps >= proven_at else ranked

    after, pace = run_until_told(run, course, Pace(20), lambda pace, _: pace.steps * step_s, most, constant)
    return lengths, after, pace.steps, course


def test_what_does_not_move_is_trained_twice_as_long_until_it_is_proven():
    lengths, ranked, steps, course = told(trials(*UNKNOWN), proven_at=40)
    assert lengths == [20, 40]
    assert ranked[1].proven
    assert steps == course.steps == 40
    assert course.notes == ["after 20 steps nothing was proven: all of it was trained for 40"]


def test_twice_at_most():
    assert told(trials(*UNKNOWN))[0] == [20, 40, 80]


@pytest.mark.parametrize(
    ("ranked", "lengths"),
    [
        (trials(*UNKNOWN, proven=True), [20]),
        (trials(*KNOWN), [20]),
        (trials(*KNOWN, verdict=NOT_BEYOND_CHANCE), [20, 40, 80]),
        (trials(2.2, verdict=NOT_BEYOND_CHANCE), [20]),
    ],
    ids=["proven", "goes its way", "ahead by chance", "one seed"],
)
def test_only_where_it_may_tell_more(ranked, lengths):
    assert told(ranked)[0] == lengths


@pytest.mark.parametrize(
    "limits", [{"most": 20}, {"most": 39}, {"left_s": 3.9}, {"shortens": True}], ids=["asked", "ends", "time", "script"]
)
def test_never_longer_than_can_be(limits):
    lengths, _, steps, course = told(trials(*UNKNOWN), **limits)
    assert lengths == [20]
    assert steps == 20
    too_short = ["after 20 steps nothing is proven: twice as many would take up to 4 s"]
    assert course.notes == (too_short if "left_s" in limits else [])


@pytest.mark.parametrize(("constant", "lengths"), [(1.3, [20]), (1.1, [20, 40, 80]), (math.inf, [20])])
def test_a_loss_that_a_constant_output_has_too_is_not_learnt(constant, lengths):
    assert told(trials(*KNOWN), constant=constant)[0] == lengths


def test_the_loss_of_a_constant_output_is_known_where_the_loss_is():
    torch.manual_seed(0)
    model, batch = nn.Linear(4, 1), (torch.randn(32, 4), torch.randn(32, 1))

    def squared(model, batch):
        return F.mse_loss(model(batch[0]), batch[1])

    spread = batch[1].var(unbiased=False).item()
    assert constant_of([gradtrace.trace(model, squared, batch)]) == pytest.approx(spread, rel=1e-4)
    assert constant_of([gradtrace.trace(model, lambda *a: 2 * squared(*a), batch)]) == math.inf
    assert constant_of([]) == math.inf


def test_who_runs_out_of_time_keeps_what_it_had():
    first = trials(*UNKNOWN)
    lengths, ranked, steps, course = told(first, fails_at=40)
    assert lengths == [20, 40]
    assert ranked is first
    assert steps == course.steps == 20
    assert course.notes == []
    with pytest.raises(OutOfTime):
        told(first, fails_at=20)


def loss_fn(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.long
def test_a_network_that_nobody_can_teach_is_given_up_after_four_times_the_steps(monkeypatch):
    monkeypatch.setattr(pace_module, "MOST_STEPS", 20)
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (nn.Linear(8, 8), nn.Sigmoid())]
    model = nn.Sequential(*layers, nn.Linear(8, 2))
    batches = [(torch.randn(32, 8), torch.randint(2, (32,))) for _ in range(64)]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    repair = gradtrace.fix(model, loss_fn, batches, optimizer, seeds=2, time_budget_s=600.0)
    assert repair.best is None
    assert repair.steps == 80
    assert sum("all of it was trained for" in note for note in repair.notes) == 2
    assert gradtrace.fix(model, loss_fn, batches, optimizer, steps=20, seeds=2, time_budget_s=600.0).steps == 20
