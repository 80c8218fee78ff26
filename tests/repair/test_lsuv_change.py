"""LSUV on the user's batch: what is recommended gives each layer's output unit variance there."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.records.repair import Role, Trial
from gradtrace.repair.changes import initialisation
from gradtrace.repair.situation import Situation


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


class Unusual(nn.Module):
    """An activation that no table knows, written out: what goes through it is only known by measuring."""

    def forward(self, x):
        return 0.3 * x * torch.sigmoid(3.0 * x)


def small(depth=8, width=32):
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), Unusual())]
    model = nn.Sequential(*layers, nn.Linear(width, 2))
    x = 3.0 * torch.randn(64, width) * torch.linspace(0.1, 1.0, width)
    batches = [(x, (x[:, -1] > 0).long())]
    return Situation(model, cross_entropy, batches, [], gradtrace.check(model, cross_entropy, batches))


def lsuv_of(here):
    return [change for change in initialisation.KIND.propose(here) if "LSUV" in change.title]


def test_the_scales_are_those_of_the_batch():
    here = small()
    (change,) = lsuv_of(here)
    assert {draw.how for draw in change.draws if "weight" in draw.name} == {"orthogonal"}
    model, _, _ = Trial("", Role.CANDIDATE, (change,)).apply(here.model, here.loss_fn)
    now, before = (variances(network, here.batches[0][0]) for network in (model, here.model))
    assert max(before[4:]) < 0.02
    assert all(0.4 < variance < 2.5 for variance in now)  # of another draw of the same scales


@torch.no_grad()
def variances(model, x):
    found = []
    for module in model[:-1]:
        x = module(x)
        found += [float(x.var())] if isinstance(module, nn.Linear) else []
    return found


def test_where_it_is_the_critical_gain_it_is_no_second_candidate():
    torch.manual_seed(0)
    layers = [layer for _ in range(20) for layer in (nn.Linear(256, 256), nn.Tanh())]
    model = nn.Sequential(*layers, nn.Linear(256, 2))
    x = torch.randn(256, 256)
    batches = [(x, (x[:, 0] > 0).long())]
    here = Situation(model, cross_entropy, batches, [], gradtrace.check(model, cross_entropy, batches))
    orthogonal = next(c for c in initialisation.KIND.propose(here) if "(orthogonal)" in c.title)
    assert initialisation._is_alike(orthogonal.draws, orthogonal.draws)
    doubled = [replace(draw, value=2.0 * draw.value) for draw in orthogonal.draws]
    assert not initialisation._is_alike(doubled, orthogonal.draws)
    for change in lsuv_of(here):  # only where it differs
        assert not initialisation._is_alike(change.draws, orthogonal.draws)
