"""Weight decay that steps follow is lowered; a norm over a single entry is taken out."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.casebook.repaired import restored
from gradtrace.repair.changes import decay, lone_norm
from gradtrace.repair.situation import Situation


def batches():
    torch.manual_seed(0)
    return [(x, torch.stack([x[:, 0], x[:, 1] * x[:, 2]], 1)) for x in torch.randn(4, 64, 8)]


def squares(model, batch):
    return F.mse_loss(model(batch[0]), batch[1])


def situation_of(model, optimizer):
    given = batches()
    diagnosis = gradtrace.check(model, squares, given, optimizer=optimizer)
    return Situation(model, squares, given, [optimizer], diagnosis)


def network(*end):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2), *end)


def test_decay_is_then_a_tenth_of_what_the_loss_says_at_the_weight_it_pulls_at_hardest():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=4.0)
    situation = situation_of(model, optimizer)
    (change,) = decay.propose(situation)
    value = change.number("value")
    squares(model, situation.batches[0]).backward()
    pulls = [value * p.detach().norm().item() / p.grad.norm().item() for p in model.parameters() if p.dim() > 1]
    assert max(pulls) == pytest.approx(0.1, rel=0.5)  # to one digit
    twin = situation.twin()
    decay.KIND.apply(change, twin)
    assert [group["weight_decay"] for group in twin.optimizers[0].param_groups] == [value]
    assert optimizer.param_groups[0]["weight_decay"] == 4.0


def test_usual_decay_stays():
    model = network()
    assert not decay.propose(situation_of(model, torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)))


@pytest.mark.parametrize(
    ("end", "value", "title"),
    [
        ((), 4.0, "Lower the weight decay"),
        ((nn.Flatten(0), nn.Unflatten(0, (64, 2, 1)), nn.LayerNorm(1)), 0.0, "Take 5"),
    ],
)
def test_it_is_what_comes_first(end, value, title):
    model = network(*end, *([nn.Flatten(1)] if end else []))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=value)
    repair = gradtrace.fix(model, squares, batches(), optimizer, steps=100, time_budget_s=3600)
    assert repair.best.title.startswith(title)
    assert restored(repair.best, repair.original)


def test_a_norm_over_several_entries_stays():
    model = network(nn.LayerNorm(2))
    assert not lone_norm.propose(situation_of(model, torch.optim.SGD(model.parameters(), lr=0.05)))
