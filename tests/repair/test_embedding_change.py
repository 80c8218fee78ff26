"""An embedding that was drawn far above one is scaled down; one that was not is left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.repair.applying import apply_changes
from gradtrace.repair.changes import embedding
from gradtrace.repair.situation import Situation


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 16, padding_idx=0)
        self.one, self.two, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, tokens):
        h = torch.tanh(self.one(self.embedding(tokens)))
        return self.head(torch.tanh(self.two(h)).mean(1))


def loss_fn(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def situation(size):
    torch.manual_seed(0)
    model = Tagger()
    with torch.no_grad():
        model.embedding.weight.mul_(size)
    batches = [(t, (t < 10).sum(1).clamp_max(4)) for t in torch.randint(0, 50, (4, 64, 10))]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Situation(model, loss_fn, batches, [optimizer], gradtrace.check(model, loss_fn, batches))


def test_a_large_one_is_scaled_to_one_and_its_padding_stays_zero():
    here = situation(30.0)
    (change,) = embedding.KIND.propose(here)
    twin = here.twin()
    apply_changes([change], twin)
    weight = twin.model.embedding.weight.detach()
    assert float(weight.square().mean().sqrt()) == pytest.approx(1.0, rel=0.05)
    assert not weight[0].any()
    copy = here.twin().model
    exec(change.code, {"torch": torch, "model": copy})
    assert torch.equal(copy.embedding.weight, weight)


def test_others_are_left_alone():
    here = situation(30.0)
    with torch.no_grad():
        here.model.embedding.weight.mul_(0.1)
    assert embedding.KIND.propose(here) == []
    assert embedding.KIND.propose(situation(1.0)) == []
