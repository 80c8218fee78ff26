"""Sums over neighbours become means in every way in which they are written, and the patch does what was tried."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.errors import InputError
from gradtrace.records.vocabulary import Symptom
from gradtrace.repair.applying import apply_changes
from gradtrace.repair.changes import neighbours
from gradtrace.repair.situation import Situation

NODES, DEGREE, WIDTH = 64, 40, 16


def edges():
    torch.manual_seed(1)
    hubs = torch.zeros(NODES * DEGREE // 2, dtype=torch.long)
    return torch.randint(0, NODES, (NODES * DEGREE,)), torch.cat([hubs, torch.randint(1, 60, (NODES * DEGREE // 2,))])


def matrix():
    sources, targets = edges()
    return torch.zeros(NODES, NODES).index_put_((targets, sources), torch.ones(len(sources)), accumulate=True)


def added(x, sources, targets, _):
    return torch.zeros_like(x).index_add(0, targets, x[sources])


def added_in_place(x, sources, targets, _):
    total = torch.zeros_like(x)
    total.index_add_(0, targets, x[sources])
    return total


def scattered(x, sources, targets, _):
    index = targets[:, None].expand(-1, x.shape[1])
    return torch.scatter_add(torch.zeros_like(x), 0, index, x[sources])


def multiplied(x, sources, targets, adjacency):
    return adjacency @ x


def multiplied_sparse(x, sources, targets, adjacency):
    return torch.mm(adjacency.to_sparse(), x)


WAYS = {way.__name__: way for way in (added, added_in_place, scattered, multiplied, multiplied_sparse)}


class Graph(nn.Module):
    def __init__(self, way):
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(6))
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x, *graph):
        for layer in self.layers:
            x = torch.relu(layer(x) + self.way(layer(x), *graph))
        return self.head(x)


def loss_fn(model, batch):
    return F.cross_entropy(model(*batch[:-1]), batch[-1])


def situation(way, adjacency=None):
    model = Graph(way)
    torch.manual_seed(2)
    adjacency = matrix() if adjacency is None else adjacency
    batches = [(torch.randn(NODES, WIDTH), *edges(), adjacency, torch.randint(4, (NODES,)))]
    return Situation(model, loss_fn, batches, [], gradtrace.check(model, loss_fn, batches))


def averaged(x, sources, targets, _):
    count = torch.bincount(targets, minlength=len(x)).clamp_min(1)[:, None]
    return torch.zeros_like(x).index_add(0, targets, x[sources]) / count


@pytest.mark.parametrize("name", WAYS)
def test_every_way_to_sum_becomes_a_mean_and_the_gradient_grows_no_more(name):
    here = situation(WAYS[name])
    assert here.has(Symptom.EXPLODING)
    change = neighbours.KIND.propose(here)[0]
    twin = here.twin()
    apply_changes([change], twin)
    found = twin.training_loss_fn(twin.model, here.batches[0])
    torch.testing.assert_close(found, loss_fn(Graph(averaged), here.batches[0]))
    after = gradtrace.check(twin.model, twin.training_loss_fn, here.batches)
    assert Symptom.EXPLODING not in {finding.symptom for finding in after.findings}


@pytest.mark.parametrize("name", WAYS)
def test_the_patch_is_what_was_tried(name):
    cst = pytest.importorskip("libcst")
    from gradtrace.repair.edits import edit_calls

    here = situation(WAYS[name])
    change = neighbours.KIND.propose(here)[0]
    tree = cst.parse_module(Path(__file__).read_text(encoding="utf-8"))
    at_lines = [(int(edit.source.rpartition(":")[2]), edit) for edit in change.edits]
    names = {"__name__": "edited"}
    exec(compile(edit_calls(tree, at_lines, {}).code, __file__, "exec", dont_inherit=True), names)
    twin = here.twin()
    apply_changes([change], twin)
    written = names["Graph"](names["WAYS"][name])
    found = loss_fn(written, here.batches[0])
    torch.testing.assert_close(found, twin.training_loss_fn(twin.model, here.batches[0]))


def test_weights_are_drawn_for_the_means():
    """As they came, means pass a sixth of the gradient's square on, layer by layer."""
    here = situation(added)
    plain, drawn = neighbours.KIND.propose(here)
    assert drawn.title.endswith("and draw the weights for them.")
    twins = [here.twin(), here.twin()]
    for change, twin in zip((plain, drawn), twins, strict=True):
        apply_changes([change], twin)
        twin.training_loss_fn(twin.model, here.batches[0]).backward()
    first, last = ([float(twin.model.layers[i].weight.grad.norm()) for twin in twins] for i in (0, 5))
    assert first[0] < 0.1 * last[0]
    assert first[1] > 0.1 * last[1]


def test_a_sum_that_is_a_mean_already_is_left_alone():
    assert neighbours.KIND.propose(situation(averaged)) == []


def test_a_matrix_with_negative_entries_is_none_of_neighbours():
    here = situation(multiplied, matrix() * torch.randn(NODES, NODES).sign() * 8)
    change = neighbours.KIND.propose(here)[0]
    twin = here.twin()
    apply_changes([change], twin)
    with pytest.raises(InputError, match="weights between neighbours"):
        twin.training_loss_fn(twin.model, here.batches[0])


def test_arguments_that_are_given_by_name_are_refused():
    here = situation(lambda x, sources, targets, _: torch.zeros_like(x).index_add(0, targets, source=x[sources]))
    change = neighbours.KIND.propose(here)[0]
    twin = here.twin()
    apply_changes([change], twin)
    with pytest.raises(InputError, match="in their places"):
        twin.training_loss_fn(twin.model, here.batches[0])
