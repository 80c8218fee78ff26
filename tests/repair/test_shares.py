"""Shapley values: efficiency, symmetry, null player; and the account of a network's deficit."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradtrace
from gradtrace.records.vocabulary import Factor
from gradtrace.repair.shares import shapley, shares_of
from gradtrace.repair.situation import Situation

numbers = st.floats(-20.0, 20.0)


@st.composite
def games(draw):
    """Players and a value for every subset."""
    players = "abcd"[: draw(st.integers(1, 4))]
    subsets = [frozenset(S) for k in range(len(players) + 1) for S in combinations(players, k)]
    return players, {S: draw(numbers) for S in subsets}


@given(games())
@settings(max_examples=200, deadline=None)
def test_shares_and_remainder_sum_to_the_deficit(game):
    players, values = game
    shares = shapley(players, values.__getitem__)
    assert sum(shares.values()) + values[frozenset(players)] == pytest.approx(values[frozenset()], abs=1e-9)


@given(games())
@settings(max_examples=200, deadline=None)
def test_symmetric_causes_get_equal_shares(game):
    players, values = game
    if len(players) < 2:
        return
    a, b = players[:2]

    def swapped(S):
        return frozenset({a: b, b: a}.get(i, i) for i in S)

    symmetric = {S: (values[S] + values[swapped(S)]) / 2 for S in values}
    shares = shapley(players, symmetric.__getitem__)
    assert shares[a] == pytest.approx(shares[b], abs=1e-9)


@given(games())
@settings(max_examples=100, deadline=None)
def test_a_cause_that_changes_nothing_gets_nothing(game):
    players, values = game
    null = players[0]
    blind = {S: values[S - {null}] for S in values}
    assert shapley(players, blind.__getitem__)[null] == pytest.approx(0.0, abs=1e-12)


def cross_entropy(model, batch):
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


def situation_of(model, dtype=torch.float64):
    torch.manual_seed(1)
    batches = [(torch.randn(32, 16, dtype=dtype), torch.randint(0, 2, (32,)))]
    model = model.to(dtype)
    return Situation(model, cross_entropy, batches, [], gradtrace.check(model, cross_entropy, batches))


def deep(activation, depth=12):
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (torch.nn.Linear(16, 16), activation())]
    return torch.nn.Sequential(*layers, torch.nn.Linear(16, 2))


def test_the_network_s_shares_sum_to_its_deficit():
    situation = situation_of(deep(torch.nn.Sigmoid))
    shares = shares_of(situation)
    assert shares.deficit == pytest.approx(situation.deficit, abs=1e-6)
    assert sum(share.decades for share in shares.shares) + shares.remaining == pytest.approx(shares.deficit, abs=1e-6)
    assert shares.leading.factor is Factor.ACTIVATION
    assert abs(shares.remaining) < 1e-6  # a plain chain is these two factors and nothing else
    assert shares.leading.decades == pytest.approx(11 * math.log10(0.24), abs=0.5)


def test_weights_alone_are_to_blame_in_a_linear_network():
    shares = shares_of(situation_of(deep(torch.nn.Identity)))
    assert [share.factor for share in shares.shares] == [Factor.WEIGHT]
    assert shares.shares[0].decades == pytest.approx(shares.deficit, abs=1e-6)


def test_no_account_where_nothing_is_lost():
    assert shares_of(situation_of(torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 2)))) is None


def test_the_account_leaves_no_hook_behind():
    model = deep(torch.nn.Tanh)
    situation = situation_of(model)
    before = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    shares_of(situation)
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == before
    assert all(p.grad is None for p in model.parameters())
