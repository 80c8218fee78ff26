"""Ranks' traces, merged, are that of one process with the whole batch, and their factors add up as each rank's do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.distributed.traces.test_pool import merged
from torch import nn

import gradtrace
from gradtrace.distributed.traces.merge import Merging
from gradtrace.measure.path import Paths
from gradtrace.records.over_ranks import OverRanks
from gradtrace.records.storage import pack, unpack

BATCH = 12


class Branches(nn.Module):
    """Merges of two and of three paths, ReLUs that are dead for some, and a norm."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm, self.last = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        h = h + torch.relu(self.second(h)) + torch.sigmoid(self.third(h))
        return self.last(self.norm(h + torch.relu(h)))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Branches()


@pytest.fixture(scope="module")
def batch():
    x = torch.randn(BATCH, 5, generator=torch.Generator().manual_seed(1))
    x[: BATCH // 2] *= 8.0  # so that ranks differ
    return x


def traced(model, x):
    return gradtrace.trace(model, lambda model, x: model(x).square().mean(), x)


def whole_of(traces, order=None):
    merging = [Merging(trace) for trace in traces]
    assert len({one.pool.key for one in merging}) == 1
    merged([one.pool for one in merging], order)
    return merging[0].whole(len(traces))


@pytest.mark.parametrize("num", [2, 3, 4])
def test_gains_are_those_of_one_process_with_the_whole_batch(model, batch, num):
    truth = traced(model, batch)
    found = whole_of([traced(model, x) for x in batch.chunk(num)])
    assert found.loss == pytest.approx(truth.loss, rel=1e-5)
    num_seen = 0
    for ours, theirs in zip(found.ops, truth.ops, strict=True):
        assert ours.name == theirs.name
        for slot, target in enumerate(theirs.targets):
            ends = target is None or truth.ops[target[0]].parameter is not None
            is_to_weight = ends or theirs.name == "TBackward0" or truth.ops[target[0]].name == "TBackward0"
            if theirs.passed[slot] is None or is_to_weight:
                continue  # each rank's own gradient of a weight is no part of the whole's
            num_seen += 1
            mean_over_ranks = math.sqrt(num) if theirs.received.numel == 1 else 1.0
            gain = mean_over_ranks * theirs.gain(slot)
            assert ours.gain(slot) == pytest.approx(gain, rel=1e-4), (ours.name, slot)
            if theirs.shares[slot] is not None:
                assert ours.shares[slot] == pytest.approx(theirs.shares[slot], abs=1e-4)
            of_loss = math.sqrt(num)  # a rank's loss is the mean over its share
            assert ours.passed[slot].norm == pytest.approx(of_loss * theirs.passed[slot].norm, rel=1e-4)
            assert ours.passed[slot].max_abs == pytest.approx(num * theirs.passed[slot].max_abs, rel=1e-4)
            assert ours.passed[slot].zero_frac == pytest.approx(theirs.passed[slot].zero_frac, abs=1e-9)
        if theirs.activation is not None:
            for name in ("derivative_mean", "derivative_rms", "zero_frac", "num_samples", "preactivation_mean"):
                assert getattr(ours.activation, name) == pytest.approx(getattr(theirs.activation, name), rel=1e-4)
            assert ours.activation.preactivation_std == pytest.approx(theirs.activation.preactivation_std, rel=0.02)
            assert ours.activation.dead_units == theirs.activation.dead_units
    assert num_seen > 15


@pytest.mark.parametrize("num", [2, 4])
def test_factors_add_up_to_the_whole(model, batch, num):
    found = whole_of([traced(model, x) for x in batch.chunk(num)])
    paths = Paths(found)
    targets = [op.index for op in found.ops if op.received is not None]
    assert len(targets) > 15
    for target in targets:
        assert abs(paths.budget(target).residual) < 1e-9
    sums: dict[int, float] = {}
    for op in found.ops:
        for target, share in zip(op.targets, op.shares, strict=True):
            if target is not None and share is not None:
                sums[target[0]] = sums.get(target[0], 0.0) + share
    merges = [target for target, arrivals in enumerate(paths.arrivals) if len(arrivals) > 1 and target in sums]
    assert merges
    for target in merges:
        assert sums[target] == pytest.approx(1.0, abs=1e-5)


def test_any_order_is_the_same_and_the_spread_is_told(model, batch):
    traces = [traced(model, x) for x in batch.chunk(4)]
    one, other = whole_of(traces), whole_of([traces[0], *traces[:0:-1]], order=[2, 0, 3, 1])
    assert isinstance(one.ranks, OverRanks)
    for a, b in zip(one.ops, other.ops, strict=True):
        if a.received is not None:
            assert a.received.norm == pytest.approx(b.received.norm, rel=1e-12)
            assert a.received.log2_counts == b.received.log2_counts
    place = max(range(len(one.ops)), key=lambda i: one.ranks.spreads[i] or 0.0)
    norms = [trace.ops[place].received.norm for trace in traces]
    expected = np.std(norms) / math.sqrt(np.mean(np.square(norms)))
    assert one.ranks.spreads[place] == pytest.approx(expected, rel=1e-6)
    assert f"by {expected:.1%} at {one.ops[place].site}" in one.coverage.notes[-1]


def test_one_trace_merged_with_itself_is_itself(model, batch):
    trace = traced(model, batch)
    found = whole_of([trace, trace])
    for ours, theirs in zip(found.ops, trace.ops, strict=True):
        if theirs.received is not None:
            assert (ours.received.norm, ours.received.max_abs) == (theirs.received.norm, theirs.received.max_abs)
            assert ours.received.example_norms == pytest.approx(theirs.received.example_norms)
    assert {spread for spread in found.ranks.spreads if spread is not None} == {0.0}


def test_a_rank_with_other_ops_has_another_key(model, batch):
    other = traced(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), batch)
    assert Merging(traced(model, batch)).pool.key != Merging(other).pool.key


def test_a_nan_on_one_rank_is_one_of_the_whole(model, batch):
    ill = batch[:6].clone()
    ill[0, 0] = math.nan
    found = whole_of([traced(model, batch[6:]), traced(model, ill)])
    assert math.isnan(found.loss)
    assert found.ops[-1].received is not None
    assert not math.isfinite(found.ops[-1].received.norm)


def test_it_is_kept_and_read_back(model, batch, tmp_path):
    found = whole_of([traced(model, x) for x in batch.chunk(2)])
    again = unpack(pack(found), tmp_path / "trace.json.gz")
    assert again.ranks == found.ranks
