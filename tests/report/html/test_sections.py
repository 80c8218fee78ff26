"""The numbers behind the pictures: trees, ways, folds, pools and what theory expects."""

from __future__ import annotations

import base64
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.report.html.pages import Attention, checked, sigmoids, transformer
from tests.report.html.records import SPIKE_LAYER, SPIKE_STEP, four_ranks, run
from tests.report.samples import chain, residual
from torch import nn

import gradtrace
from gradtrace.measure.ledger import ledger
from gradtrace.measure.path import Paths
from gradtrace.records.run import Scalar, Series
from gradtrace.report.expectation import expected_decades
from gradtrace.report.html.flow import MOST_STRETCHES, flow
from gradtrace.report.html.folding import blocks, fold
from gradtrace.report.html.meetings import named
from gradtrace.report.html.pooling import INFINITE, LEVELS, MISSING, ZERO, edges, pooled, quantised, span
from gradtrace.report.html.ranks import ranks
from gradtrace.report.html.training import training
from gradtrace.report.html.tree import MOST_CHILDREN, MOST_OPEN, Node, lines, tree
from gradtrace.report.html.waterfall import waterfall
from gradtrace.report.html.ways import Way, ways

# --------------------------------------------------------------------------------------------------------------- tree

names = st.lists(st.sampled_from("abc0129"), min_size=1, max_size=4).map(".".join)


def leaves(nodes: tuple[Node, ...]) -> list[int]:
    return [
        row for node in nodes for row in (leaves(node.children) if node.children else range(node.first, node.last + 1))
    ]


@given(st.lists(names, min_size=1, max_size=120))
def test_every_row_is_one_leaf_in_its_order(paths):
    assert leaves(tree(paths)) == list(range(len(paths)))


@given(st.lists(names, min_size=1, max_size=200))
def test_a_node_spans_its_children_and_has_few(paths):
    stack = list(tree(paths))
    assert len(stack) <= MOST_CHILDREN
    while stack:
        node = stack.pop()
        assert len(node.children) != 1
        assert len(node.children) <= MOST_CHILDREN
        if node.children:
            assert (node.first, node.last) == (node.children[0].first, node.children[-1].last)
            assert all(a.last + 1 == b.first for a, b in pairwise(node.children))
        stack += node.children


def test_a_thousand_layers_open_to_a_screen_or_two():
    found = lines(tree([f"layers.{i}" for i in reversed(range(1000))]))
    visible = [line for line in found if line.parent < 0 or found[line.parent].is_open]
    assert MOST_CHILDREN / 2 < len(visible) <= MOST_OPEN
    assert sum(line.num_children == 0 for line in found) == 1000


# ---------------------------------------------------------------------------------------------------------- waterfall


def test_the_rows_add_up_to_the_budget():
    trace = sigmoids().traces[0]
    paths = Paths(trace)
    book = ledger(trace, paths)
    section = waterfall(trace)
    assert section is not None
    rows = section.plots[0].data["rows"]
    total = math.fsum(sum(gains) for gains in rows["gains"])
    assert total == pytest.approx(paths.budget(book[-1].ops[-1]).total, abs=0.01)
    assert rows["after"][-1] == pytest.approx(total, abs=0.01)


@pytest.mark.parametrize("layer", [nn.Linear(256, 512), nn.Linear(512, 256)], ids=["wider", "narrower"])
def test_theory_expects_what_fresh_weights_do(layer):
    """Wide layers, fresh weights: E|W^T g|^2 = |W|^2 |g|^2 / fan_out, to a few parts in a hundred."""
    model = nn.Sequential(
        nn.Linear(64, layer.in_features), nn.Tanh(), layer, nn.Tanh(), nn.Linear(layer.out_features, 8)
    )
    trace = gradtrace.trace(model, lambda m, x: (m(x) * torch.randn(128, 8)).sum(), torch.randn(128, 64))
    paths = Paths(trace)
    book = ledger(trace, paths)
    expected = expected_decades(trace, paths, book)
    assert expected[-1] == pytest.approx(book[-1].product_log10, abs=0.05)
    assert abs(book[-1].product_log10) > 0.1


def test_theory_expects_what_fresh_convolutions_do():
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.Conv2d(64, 32, 3, padding=1)
    )
    trace = gradtrace.trace(model, lambda m, x: (m(x) * torch.randn(4, 32, 16, 16)).sum(), torch.randn(4, 3, 32, 32))
    paths = Paths(trace)
    book = ledger(trace, paths)
    assert expected_decades(trace, paths, book)[-1] == pytest.approx(book[-1].product_log10, abs=0.05)  # borders


# --------------------------------------------------------------------------------------------------------------- flow


def graph_of(trace, name_of=lambda op: op.site.module or ""):
    paths = Paths(trace)
    return ways(paths, ledger(trace, paths)[-1].ops[-1], name_of)


@pytest.mark.parametrize(
    "trace", [residual(5), chain(9, 0.3, 2.0, "relu"), transformer().traces[0]], ids=["skips", "chain", "attention"]
)
def test_what_enters_a_stretch_is_what_it_carries(trace):
    graph = graph_of(trace)
    into = [0.0] * len(graph.stretches)
    out = [0.0] * len(graph.stretches)
    for way in graph.ways:
        assert way.source < way.target
        into[way.target] += way.carried
        out[way.source] += way.carried
    for i, stretch in enumerate(graph.stretches[1:-1], start=1):
        assert into[i] == pytest.approx(stretch.carried)
        assert out[i] == pytest.approx(stretch.carried)
    assert out[0] == pytest.approx(1.0)
    assert into[-1] == pytest.approx(1.0)


def test_the_cosine_of_a_way_is_that_of_the_gradients():
    """x + 3x: both ways point the same way, with shares of 1/4 and 3/4."""
    model = nn.Linear(4, 4)

    def loss_fn(model, x):
        y = model(x).tanh()
        return (y + 3 * y).sum()

    graph = graph_of(gradtrace.trace(model, loss_fn, torch.randn(8, 4)), lambda op: op.name)
    met = [way for way in graph.ways if way.share < 0.9]
    assert sorted(way.share for way in met) == pytest.approx([0.25, 0.75])
    assert [way.cosine for way in met] == pytest.approx([1.0, 1.0])


def test_opposed_ways_have_negative_shares_and_still_carry_one():
    model = nn.Linear(4, 4)

    def loss_fn(model, x):
        y = model(x).tanh()
        return (3 * y - y).sum()

    graph = graph_of(gradtrace.trace(model, loss_fn, torch.randn(8, 4)), lambda op: op.name)
    met = [way for way in graph.ways if way.share < 0.9 or way.share > 1.1]
    assert sorted(way.share for way in met) == pytest.approx([-0.5, 1.5])
    assert sum(way.carried for way in met) == pytest.approx(1.0)
    assert sorted(way.cosine for way in met) == pytest.approx([-1.0, 1.0])


def test_attention_has_its_three_roles():
    model = nn.Sequential(nn.Linear(8, 8), Attention(8), nn.Linear(8, 4))
    section = flow(checked(model, torch.randn(4, 5, 8), "").traces[0])
    assert section is not None
    assert {link[-1] for link in section.plots[0].data["links"]} >= {"query", "key", "value"}


@given(st.integers(2, 60), st.integers(1, 20))
def test_folding_keeps_the_chain_whole(num_blocks, most):
    graph = graph_of(residual(num_blocks))
    drawn, found = fold(graph, most + 8)
    assert [i for each in drawn for i in each.stretches].__len__() == len(graph.stretches)
    assert sorted(i for each in drawn for i in each.stretches) == list(range(len(graph.stretches)))
    into = [0.0] * len(drawn)
    for way in found:
        into[way.target] += way.carried
    assert into[1:] == pytest.approx([1.0 if len(drawn) == 1 else sum(
        w.carried for w in found if w.target == i) for i in range(1, len(drawn))])  # fmt: skip
    assert into[-1] == pytest.approx(1.0)


def test_five_hundred_blocks_are_a_picture_of_one_screen():
    section = flow(residual(500))
    assert section is not None
    nodes = section.plots[0].data["nodes"]
    assert len(nodes) <= MOST_STRETCHES
    assert max(node[2] for node in nodes) > 10


def test_a_block_ends_where_nothing_passes_by():
    graph = graph_of(residual(4))
    cut = blocks(graph)
    assert all(block.last == after.first for block, after in pairwise(cut))
    for block in cut:
        for way in block.ways:
            assert block.first <= way.source < way.target <= block.last


# ------------------------------------------------------------------------------------------------ pools and histograms


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(1, 12))
def test_a_spike_survives_any_pooling(num_rows, num_columns, most_rows, most_columns):
    values = np.ones((num_rows, num_columns))
    spike = (num_rows // 2, num_columns // 3)
    values[spike] = 1e6
    rows, columns = edges(num_rows, most_rows), edges(num_columns, most_columns)
    largest, smallest = (pooled(values, rows, columns, largest=largest) for largest in (True, False))
    assert largest.shape == (min(num_rows, most_rows), min(num_columns, most_columns))
    assert (largest == 1e6).sum() == 1
    alone = np.diff(rows)[np.argmax(rows > spike[0]) - 1] * np.diff(columns)[np.argmax(columns > spike[1]) - 1] == 1
    assert (smallest == 1e6).sum() == alone


def test_levels_keep_the_decades_and_name_what_has_none():
    values = np.array([[1e-8, 1e-3, 1e2, 0.0, np.inf, np.nan]])
    low, high = span(values)
    assert (low, high) == (-8.0, 2.0)
    codes = np.frombuffer(base64.b64decode(quantised(values, low, high).data), np.uint8)
    assert codes[[3, 4, 5]].tolist() == [ZERO, INFINITE, MISSING]
    decades = low + codes[:3] / (LEVELS - 1) * (high - low)
    assert np.abs(decades - [-8, -3, 2]).max() <= 0.5 * (high - low) / (LEVELS - 1) + 1e-9


def test_the_spike_of_the_run_is_where_it_was():
    steps = run().steps
    high = steps.series_high[:, 0, ::2].T
    found = pooled(high, edges(high.shape[0], 24), edges(high.shape[1], 300), largest=True)
    assert np.argwhere(np.isinf(found)).tolist() == [[SPIKE_LAYER, SPIKE_STEP]]


def test_skips_and_branches_are_told_apart():
    section = flow(residual(3))
    assert section is not None
    table = section.plots[0].table
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert {row["as"] for row in rows if row["from"].endswith("Add") and row["to"].endswith("Add")} == {"skip"}
    assert {row["as"] for row in rows if row["from"].endswith(("mlp", "attn"))} == {"branch"}


def test_a_projected_shortcut_is_a_branch_like_the_other():
    found = [Way(0, 1, 0.5, 0.5, 1.0, 2.0), Way(0, 2, 0.5, 0.5, 1.0, 2.0), Way(1, 3, 0.5, 0.5, 1.0, 2.0),
             Way(2, 3, 0.5, 0.5, 1.0, 2.0), Way(3, 4, 1.0, 1.0, 2.0, 2.0, "query")]  # fmt: skip
    assert [way.role for way in named(found)] == ["", "", "", "", "query"]


class FusedHeads(nn.Module):
    """A head is a slice of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (q @ k.transpose(-2, -1) / 2).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class HeadsApart(nn.Module):
    """A head is a module."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.ModuleList([nn.Linear(8, 4) for _ in range(3)]) for _ in range(2)])
        self.out = nn.Linear(8, 8)

    def forward(self, x):
        mixed = []
        for head in self.heads:
            q, k, v = (layer(x) for layer in head)
            mixed.append((q @ k.transpose(-2, -1) / 2).softmax(-1) @ v)
        return self.out(torch.cat(mixed, -1))


def flow_of(attention: nn.Module):
    model = nn.Sequential(nn.Linear(8, 8), attention)
    section = flow(gradtrace.trace(model, lambda m, x: m(x).square().mean(), torch.randn(4, 5, 8)))
    assert section is not None
    return section


def test_queries_keys_and_values_have_boxes_and_shared_heads_are_said():
    section = flow_of(FusedHeads())
    labels = [node[0] for node in section.plots[0].data["nodes"]]
    assert {"1 · query", "1 · key", "1 · value", "1 · softmax"} <= set(labels)
    assert "(1: 2 heads)" in section.notes[0]


def test_heads_that_are_modules_have_their_own_ways():
    section = flow_of(HeadsApart())
    labels = [node[0] for node in section.plots[0].data["nodes"]]
    assert {f"1.heads.{head}.{part}" for head in range(2) for part in range(3)} <= set(labels)
    assert section.notes == ()


def test_a_map_measured_now_and_then_has_no_gaps():
    whole = run(3, 20)
    sparse = whole.steps.series_high.copy()
    sparse[np.arange(20) % 5 != 0, list(Series).index(Series.UPDATE_RATIO)] = np.nan
    section = training(replace(whole, steps=replace(whole.steps, series_low=sparse, series_high=sparse)))
    assert section is not None
    plots = {plot.key: plot for plot in section.plots}
    assert (plots["update"].data["first"], plots["update"].data["last"]) == ([0, 5, 10, 15], [4, 9, 14, 19])
    assert MISSING not in base64.b64decode(plots["update"].data["largest"])
    assert "measured at 4 of 20 steps" in plots["update"].reading
    assert len(plots["gradient"].data["first"]) == 20


def test_ranks_are_drawn_beside_the_median_of_all():
    whole = replace(run(3, 60), ranks=four_ranks(), notes=("the loss of rank 2 stands apart", "of something else"))
    section = ranks(whole)
    assert section is not None
    assert section.answer.startswith(
        "4 ranks, at 36 steps that all reported. Furthest from the median of all: loss: rank"
    )
    assert "time to its loss: rank 1, 4 times" in section.answer
    assert section.notes == ("the loss of rank 2 stands apart",)
    plots = {plot.key: plot for plot in section.plots}
    assert list(plots) == ["rankloss", "rankgradient", "rankforwards"]
    data = plots["rankloss"].data
    assert (data["first"][14:18], data["last"][14:18]) == ([14, 15, 40, 41], [14, 39, 40, 41])
    codes = np.frombuffer(base64.b64decode(data["largest"]), np.uint8).reshape(4, 36)
    assert codes[:, :35].argmax(axis=0).tolist() == [2] * 35
    assert codes[3, 35] == INFINITE
    assert plots["rankloss"].table.rows[3][-1] == "1"
    assert ranks(run(3, 20)) is None


def test_a_loss_that_is_the_same_on_all_ranks_or_of_one_alone():
    said = four_ranks()
    same = ranks(replace(run(3, 60), ranks=replace(said, loss=np.ones_like(said.loss))))
    assert same is not None
    assert "loss: rank 0, 1 times" in same.answer
    alone = np.full_like(said.loss, np.nan)
    alone[:, 3] = 1.0  # the last stage of a pipeline
    section = ranks(replace(run(3, 60), ranks=replace(said, loss=alone, gradient=-alone, nonfinite=alone > 9.0)))
    assert section is not None
    assert [plot.key for plot in section.plots] == ["rankforwards"]


# ----------------------------------------------------------------------------------------------------- what is told


def gradient_lines(of):
    (plot,) = [plot for plot in training(of).plots if plot.title == "Gradient norm"]
    return [line["name"] for line in plot.data["lines"]]


def test_the_norm_after_clipping_is_drawn_where_anything_was_clipped():
    there = run()
    scalars = {part: getattr(there.steps, part).copy() for part in ("scalars_low", "scalars_high")}
    total, clipped = list(Scalar).index(Scalar.GRADIENT_NORM), list(Scalar).index(Scalar.CLIPPED_NORM)
    for values in scalars.values():
        values[:, clipped] = values[:, total]
    never = replace(there, steps=replace(there.steps, **scalars))
    assert never.steps.clipping is None
    assert gradient_lines(never) == ["gradient norm"]
    for values in scalars.values():
        values[3:, clipped] *= 0.5
    assert gradient_lines(replace(there, steps=replace(there.steps, **scalars))) == ["gradient norm", "after clipping"]


def test_steps_that_the_watch_rested_through_are_not_called_finite():
    there = run(num_steps=40)
    nonfinite = np.zeros(40, dtype=there.steps.nonfinite.dtype)
    nonfinite[30:] = 1
    steps = replace(there.steps, nonfinite=nonfinite)
    assert "; steps with a NaN or Inf: 10" in training(replace(there, steps=steps)).answer
    rested = replace(steps, first=2 * there.steps.first)
    assert "; measured steps with a NaN or Inf: 10" in training(replace(there, steps=rested)).answer
