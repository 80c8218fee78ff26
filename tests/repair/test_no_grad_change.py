"""A block without the tape, around what is to learn, is taken away; one around what is not is left."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.repair.applying import apply_changes
from gradtrace.repair.changes import connect
from gradtrace.repair.situation import Situation


class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(8, 16), nn.Linear(16, 2)

    def forward(self, x):
        with torch.no_grad():
            scale = x.std()
        with torch.no_grad():
            h = torch.relu(self.first(x))
        return self.head(h / scale)


class Decorated(Half):
    @torch.no_grad()
    def encoded(self, x):
        return torch.relu(self.first(x))

    def forward(self, x):
        return self.head(self.encoded(x))


class Well(Half):
    def forward(self, x):
        with torch.no_grad():
            scale = x.std()
        return self.head(torch.relu(self.first(x).detach() / scale))


def loss_fn(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def proposed(model):
    torch.manual_seed(0)
    batches = [(x, (x[:, 0] > 0).long()) for x in torch.randn(2, 32, 8)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    here = Situation(model, loss_fn, batches, [optimizer], gradtrace.check(model, loss_fn, batches))
    return here, connect.KIND.propose(here)


def gradients(here, changes):
    twin = here.twin()
    apply_changes(changes, twin)
    twin.training_loss_fn(twin.model, here.batches[0]).backward()
    with torch.no_grad():
        twin.score(here.batches[0])
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    return {name for name, parameter in twin.model.named_parameters() if parameter.grad is not None}


def test_the_block_around_the_layer_is_taken_away_and_no_other():
    here, (change,) = proposed(Half())
    assert change.title.startswith("Keep the computation on the tape: no no_grad at ")
    (line,) = {text.rpartition(":")[2].rstrip(")") for text in here.diagnosis.traces[0].severed}
    assert change.where[0].endswith(f":{int(line) - 1}")
    assert gradients(here, []) == {"head.weight", "head.bias"}
    assert gradients(here, [change]) == {"first.weight", "first.bias", "head.weight", "head.bias"}


def test_so_is_that_of_a_decorated_method():
    here, (change,) = proposed(Decorated())
    assert "first.weight" in gradients(here, [change])


def test_a_block_around_a_statistic_is_left():
    _, changes = proposed(Well())
    assert [change.word("function") for change in changes] == ["detach"]
