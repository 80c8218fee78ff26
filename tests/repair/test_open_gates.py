"""Gates of recurrences written by hand: which part of which bias keeps the state, and what opens it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.records.repair import Role, Trial
from gradtrace.repair.changes import recurrence
from gradtrace.repair.situation import Situation

STEPS, SIZE = 40, 8


class Cell(nn.Module):
    """An LSTM whose gates stand in this order in one layer's output, taken apart by `split`."""

    def __init__(self, order, split):
        super().__init__()
        self.order, self.split = order, split
        self.both = nn.Linear(4 + SIZE, 4 * SIZE)
        self.head = nn.Linear(SIZE, 2)

    def forward(self, x):
        h = c = x.new_zeros(len(x), SIZE)
        for step in x.unbind(1):
            z = dict(zip(self.order, self.split(self.both(torch.cat([step, h], 1))), strict=True))
            c = torch.sigmoid(z["f"]) * c + torch.sigmoid(z["i"]) * torch.tanh(z["g"])
            h = torch.sigmoid(z["o"]) * torch.tanh(c)
        return self.head(h)


class Update(nn.Module):
    """h = z h + (1 - z) n, each of its own layer."""

    def __init__(self):
        super().__init__()
        self.z, self.n, self.head = nn.Linear(4 + SIZE, SIZE), nn.Linear(4 + SIZE, SIZE), nn.Linear(SIZE, 2)

    def forward(self, x):
        h = x.new_zeros(len(x), SIZE)
        for step in x.unbind(1):
            both = torch.cat([step, h], 1)
            z = torch.sigmoid(self.z(both))
            h = z * h + (1 - z) * torch.tanh(self.n(both))
        return self.head(h)


class Plain(nn.Module):
    """h = tanh(W h + x): no gate, and weights that contract."""

    def __init__(self):
        super().__init__()
        self.both, self.head = nn.Linear(4 + SIZE, SIZE), nn.Linear(SIZE, 2)

    def forward(self, x):
        h = x.new_zeros(len(x), SIZE)
        for step in x.unbind(1):
            h = torch.tanh(self.both(torch.cat([step, h], 1)))
        return self.head(h)


def loss_fn(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def situation(model):
    torch.manual_seed(1)
    batches = [(torch.randn(16, STEPS, 4), torch.randint(2, (16,)))]
    diagnosis = gradtrace.check(model, loss_fn, batches)
    return Situation(model, loss_fn, batches, [torch.optim.SGD(model.parameters(), lr=0.1)], diagnosis)


def opened(here):
    return [change for change in recurrence.KIND.propose(here) if "stay open" in change.title]


def chunks(values):
    return values.chunk(4, 1)


def splits(values):
    return values.split(SIZE, 1)


def viewed(values):
    return values.view(-1, 4, SIZE).unbind(1)


def slices(values):
    return [values[:, i * SIZE : (i + 1) * SIZE] for i in range(4)]


@pytest.mark.parametrize(
    ("model", "name", "rows"),
    [
        (lambda: Cell("ifgo", chunks), "both.bias", (8, 16)),
        (lambda: Cell("iofg", splits), "both.bias", (16, 24)),
        (lambda: Cell("figo", chunks), "both.bias", (0, 8)),
        (Update, "z.bias", (0, 8)),
    ],
)
def test_the_gate_that_keeps_the_state_is_found_and_opened_for_the_sequence(model, name, rows):
    torch.manual_seed(0)
    here = situation(model())
    (change,) = opened(here)
    assert (
        change.title == f"Let the gate of {name}[{rows[0]}:{rows[1]}] stay open for up to {STEPS} steps (chrono bias)."
    )
    changed, _, _ = Trial(change.title, Role.CANDIDATE, (change,)).apply(here.model, loss_fn, here.optimizers[0])
    coded, _, _ = Trial("", Role.CANDIDATE, ()).apply(here.model, loss_fn, here.optimizers[0])
    exec(change.code, {"torch": torch, "model": coded})
    for copy in (changed, coded):
        for own, value in copy.named_parameters():
            before = here.model.get_parameter(own)
            kept = torch.ones(len(value), dtype=torch.bool)
            if own == name:
                kept[slice(*rows)] = False
                memory = 1.0 + value.detach()[~kept].exp()  # steps: 1 / (1 - sigmoid(b))
                assert (memory >= 2.0 - 1e-4).all()
                assert (memory <= STEPS + 1e-3).all()
            assert torch.equal(value[kept], before[kept])


@pytest.mark.parametrize("model", [lambda: Cell("ifgo", slices), lambda: Cell("ifgo", viewed), Plain])
def test_a_part_that_cannot_be_told_is_left_alone(model):
    torch.manual_seed(0)
    assert opened(situation(model())) == []


def test_an_open_gate_takes_nothing_and_is_left_alone():
    torch.manual_seed(0)
    model = Cell("ifgo", chunks)
    with torch.no_grad():
        model.both.bias[SIZE : 2 * SIZE] = 6.0
    assert opened(situation(model)) == []
