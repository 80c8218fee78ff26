"""Loops of the user's own: found by their weights, told from shared depth, and measured in spite of in-place ops."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.recurrence.found import recurrences
from gradtrace.recurrence.uses import Watched


class Turns(nn.Module):
    """h = f(W h + what comes in), `turns` times."""

    def __init__(self, takes_in, weight=lambda W: W, function=torch.tanh):
        super().__init__()
        self.W, self.read = nn.Parameter(torch.randn(6, 6) / 3), nn.Linear(3, 6)
        self.register_buffer("mask", torch.ones(6, 6).tril())
        self.takes_in, self.weight, self.function = takes_in, weight, function

    def forward(self, x):
        h = self.read(x[:, 0])
        constant = self.read(x[:, 1])
        for t in range(x.shape[1]):
            given = {"varying": lambda t=t: self.read(x[:, t]), "same": lambda: constant, "none": lambda: 0.0}
            h = self.function(h @ self.weight(self.W) + given[self.takes_in]())
        return h


def chains(model, x):
    return gradtrace.through_time(model, lambda m, x: m(x).square().mean(), x).chains


@pytest.mark.parametrize("takes_in", ["varying", "same", "none"])
def test_what_a_turn_takes_in(takes_in):
    (chain,) = chains(Turns(takes_in), torch.randn(2, 9, 3))
    assert (chain.module, chain.kind, chain.inputs) == ("W", "loop", takes_in)
    assert chain.num_steps == 8


def test_slices_made_before_the_loop_vary_too():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.Linear(4, 4)

        def forward(self, x):
            h = torch.zeros(2, 4)
            for row in x.unbind(1):
                h = torch.tanh(self.cell(h) + row)
            return h

    (chain,) = chains(Net(), torch.randn(2, 8, 4))
    assert (chain.module, chain.inputs) == ("cell", "varying")


@pytest.mark.parametrize(
    "weight",
    [
        lambda W: W.T,
        lambda W: W * 0.5,
        lambda W: torch.matrix_exp(W - W.T),
        lambda W: W / W.norm(),
    ],
)
def test_what_is_computed_from_a_weight_is_a_weight(weight):
    (chain,) = chains(Turns("varying", weight), torch.randn(2, 9, 3))
    assert chain.module == "W"


def test_a_masked_weight():
    model = Turns("varying")
    model.weight = lambda W: W * model.mask
    (chain,) = chains(model, torch.randn(2, 9, 3))
    assert chain.module == "W"


def test_two_weights_made_of_one_parameter_are_two():
    class StateSpace(nn.Module):
        """h = exp(-dt) h + dt x: what comes in is scaled by the same step size that the decay is made of."""

        def __init__(self):
            super().__init__()
            self.step, self.read = nn.Parameter(torch.zeros(6)), nn.Linear(3, 6)

        def forward(self, x):
            x, h = self.read(x), torch.zeros(len(x), 6)
            dt = nn.functional.softplus(self.step)
            decay = torch.exp(-dt)
            for t in range(x.shape[1]):
                h = decay * h + dt * x[:, t]
            return h

    (chain,) = chains(StateSpace(), torch.randn(2, 9, 3))
    assert (chain.module, chain.inputs, chain.num_steps) == ("step", "varying", 7)  # (the first h knows no gradient)
    assert chain.recurrent[-1] / chain.linear[-1] == pytest.approx(0.5)


def test_in_place_non_linearities_do_not_mix_up_the_factors():
    x = torch.randn(2, 9, 3)
    torch.manual_seed(0)
    plain = Turns("varying", function=torch.relu)
    torch.manual_seed(0)
    in_place = Turns("varying", function=torch.relu_)
    np.testing.assert_equal(asdict(chains(plain, x)[0]), asdict(chains(in_place, x)[0]))  # NaN is NaN


def test_weights_that_take_turns_are_one_loop():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x):
            return x + self.down(torch.relu(self.up(x)))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.block = nn.Linear(3, 4), Block()

        def forward(self, x):
            x = self.stem(x)
            for _ in range(6):
                x = self.block(x)
            return x

    (chain,) = chains(Net(), torch.randn(5, 3))
    assert (chain.module, chain.inputs, chain.num_steps) == ("block", "none", 5)


def test_a_head_at_every_step_is_no_recurrence():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.RNN(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            return torch.stack([self.head(h) for h in self.rnn(x)[0].unbind(1)], 1)

    assert [chain.module for chain in chains(Net(), torch.randn(2, 9, 3))] == ["rnn"]


def test_streams_that_take_turns_in_one_cell():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.GRUCell(3, 4)

        def forward(self, x):
            a = b = None
            for row in x.unbind(1):
                a, b = self.cell(row, a), self.cell(-row, b)
            return a - b

    found = chains(Net(), torch.randn(2, 9, 3))
    assert [chain.num_steps for chain in found] == [9, 9]


def test_nothing_is_found_in_a_plain_network():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    watched = Watched(model)
    with watched:
        model(torch.randn(4, 3))
    assert recurrences(watched, []) == []


def test_a_cut_behind_every_step_still_tells_what_one_step_would_pass():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.RNNCell(3, 64)
            nn.init.orthogonal_(self.cell.weight_hh, 0.5)
            nn.init.zeros_(self.cell.weight_ih)
            nn.init.zeros_(self.cell.bias_ih)
            nn.init.normal_(self.cell.bias_hh, std=1e-4)

        def forward(self, x):
            h, states = None, []
            for row in x.unbind(1):
                h = self.cell(row, h.detach() if h is not None else None)
                states.append(h)
            return torch.stack(states)

    (chain,) = chains(Net().double(), torch.randn(2, 9, 3, dtype=torch.float64))
    assert chain.cuts == tuple(range(1, 9))
    assert chain.reach.starts == tuple(t - 1 for t in chain.reach.targets)
    assert 10**chain.horizon.decades_per_step == pytest.approx(0.5, abs=1e-3)
