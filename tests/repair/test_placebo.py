"""A placebo cannot help but by chance: every gain, rank and symmetry of a layer is as it was."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gradtrace.records.change import Change
from gradtrace.records.repair import Outcome, Role, Trial
from gradtrace.repair.changes.placebo import KIND, block_of, reordered
from gradtrace.repair.twin import make_twin
from gradtrace.repair.verdicts import judged


@pytest.mark.parametrize("shape", [(6, 4), (1, 5), (8, 3, 3, 3), (12, 4)])
def test_singular_values_and_entries_stay(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    new = reordered(weight, shape[0], torch.Generator().manual_seed(1))
    assert not torch.equal(new, weight)
    assert torch.equal(new.flatten().sort().values, weight.flatten().sort().values)
    if len(shape) == 2:
        torch.testing.assert_close(torch.linalg.svdvals(new), torch.linalg.svdvals(weight))


def test_equal_units_stay_equal_and_maps_that_are_stored_in_one_stay_apart():
    alike = torch.arange(5.0).repeat(4, 1)
    new = reordered(alike, 4, torch.Generator().manual_seed(1))
    assert (new == new[:1]).all()
    attention = nn.MultiheadAttention(4, 1)
    block = block_of(attention, attention.in_proj_weight)
    assert block == 4
    three = torch.arange(3.0).repeat_interleave(4)[:, None].expand(12, 4)
    assert torch.equal(reordered(three, block, torch.Generator().manual_seed(2)), three)
    assert block_of(nn.LSTM(3, 8), torch.empty(32, 3)) == 8
    assert block_of(nn.Linear(3, 8), torch.empty(8, 3)) == 8


def test_the_row_of_the_padding_stays_where_it_is():
    """Elsewhere it would heal a division by its length, which no draw can."""
    model = nn.Embedding(30, 4, padding_idx=7)
    (change, _) = KIND.propose(SimpleNamespace(model=model))
    for seed in range(8):
        twin = make_twin(model, None, [], seed)
        KIND.apply(change, twin)
        assert not twin.model.weight[7].any()
        assert (twin.model.weight == 0.0).all(1).sum() == 1
        assert torch.equal(twin.model.weight.flatten().sort().values, model.weight.flatten().sort().values)


def test_it_is_drawn_twice_and_by_the_seed():
    model = nn.Linear(8, 8)
    first, second = KIND.propose(SimpleNamespace(model=model))

    def drawn(change, seed):
        twin = make_twin(model, None, [], seed)
        KIND.apply(change, twin)
        return twin.model.weight.detach()

    assert torch.equal(drawn(first, 1), drawn(first, 1))
    assert not torch.equal(drawn(first, 1), drawn(first, 2))
    assert not torch.equal(drawn(first, 1), drawn(second, 1))


def trial(title, ends, role):
    change = Change("placebo", title, ("a",))
    return Trial(title, role, (change,), tuple(Outcome(i, ((0, 2.3), (9, e))) for i, e in enumerate(ends)), whole=True)


def test_of_two_draws_of_one_law_neither_passes_for_a_remedy():
    """The network as it came is an unlucky draw: both placebos are better, and neither than the other."""
    original = trial("as it came", [2.3, 2.31, 2.29], Role.ORIGINAL)
    placebos = [trial("one", [0.5, 0.6, 0.55], Role.PLACEBO), trial("two", [0.52, 0.58, 0.56], Role.PLACEBO)]
    weak = trial("weak", [0.5, 0.62, 0.54], Role.CANDIDATE)
    told = {one.title: one for one in judged([original, *placebos, weak], lambda _: ())}
    assert "unlucky draw" in told["one"].verdict
    assert "unlucky draw" in told["two"].verdict
    assert told["weak"].verdict == "no better than the placebo"
    alone = {one.title: one for one in judged([original, placebos[0]], lambda _: ())}
    assert "unlucky draw" in alone["one"].verdict
    other = trial("two", [2.3, 2.32, 2.28], Role.PLACEBO)
    told = {one.title: one for one in judged([original, placebos[0], other], lambda _: ())}
    assert told["one"].verdict == "would have passed for a remedy"
