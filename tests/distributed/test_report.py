"""Adding up what the ranks give, in any order and any split, tells what the whole tensor would."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradtrace.distributed.placement import PLAIN, Placement
from gradtrace.distributed.report.fields import MOST_SLOTS, SLOT, size_of
from gradtrace.distributed.report.given import Decision, Given, Shares, pack
from gradtrace.distributed.report.merged import Merged, merged

NONE = np.array([np.nan], np.float32)


def summed(ranks: list[Given | None], num_columns: int = 1, order: list[int] | None = None) -> Merged:
    places = np.arange(num_columns)
    packed = [pack(one, places, num_columns, rank, len(ranks)) for rank, one in enumerate(ranks)]
    whole = np.zeros_like(packed[0])
    for rank in order or range(len(ranks)):
        whole = whole + packed[rank]
    return merged(whole, num_columns, len(ranks))


def of(norm: float, placement: Placement = PLAIN, loss: float | None = 1.0) -> Given:
    norms = np.array([norm], np.float32)
    shares = Shares.of([placement])
    return Given(loss, norms, None, norms, norms, of_gradients=shares, of_weights=shares)


finite = st.floats(-1e3, 1e3, width=32)


@given(st.lists(st.lists(finite, max_size=5), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_any_split_in_any_order_is_the_whole(shards, random):
    """Empty shards among them."""
    order = list(range(len(shards)))
    random.shuffle(order)
    placement = Placement(replication=1, num_ranks=len(shards), is_spread=True)
    local = [float(np.linalg.norm(np.array(shard, np.float64))) for shard in shards]
    whole = float(np.linalg.norm(np.concatenate([np.array(shard, np.float64) for shard in shards])))
    found = summed([of(norm, placement) for norm in local], order=order)
    assert found.gradients[0] == pytest.approx(whole, rel=1e-6)
    assert found.weights[0] == pytest.approx(whole, rel=1e-6)
    assert not found.differ[0]


@given(st.lists(finite, min_size=2, max_size=3), st.integers(1, 3), st.integers(1, 3))
def test_copies_within_a_mesh_and_copies_of_meshes_count_once(shards, copies, num_meshes):
    placement = Placement(replication=copies, num_ranks=copies * len(shards), is_spread=True)
    found = summed([of(abs(one), placement) for one in shards * copies * num_meshes])
    assert found.gradients[0] == pytest.approx(math.sqrt(sum(one * one for one in shards)), rel=1e-6)


@given(st.floats(2.0**-60, 2.0**60, width=32), st.integers(2, 7))
def test_replicas_have_the_norm_of_each_to_the_bit(norm, num):
    found = summed([of(norm)] * num)
    assert found.gradients[0] == np.float32(norm)
    assert not found.differ[0]


@given(st.floats(0.5, 2.0, width=32), st.floats(0.5, 2.0, width=32))
def test_what_is_not_the_same_on_all_ranks_is_told(a, b):
    assert bool(summed([of(a), of(b)]).differ[0]) is (abs(a - b) / (a + b) > 1e-4)


def test_gradients_averaged_after_the_backward_pass_are_those_that_the_optimizer_sees():
    shares, averaged = Shares.of([PLAIN]), np.array([1.5], np.float32)
    ranks = [Given(1.0, np.array([own], np.float32), averaged, of_gradients=shares) for own in (1.0, 2.5)]
    found = summed(ranks)
    assert (found.differ[0], found.late[0]) == (False, True)
    assert found.gradients[0] == found.clipped[0] == 1.5


def test_a_mesh_of_which_a_rank_says_nothing_is_not_known():
    part = Placement(1, 2, is_spread=True)
    silent = Given(1.0, NONE, of_gradients=Shares.of([part]))
    assert math.isnan(summed([of(1.0, part), silent]).gradients[0])
    unknown = Placement(1, 2, is_spread=True, is_known=False)
    assert math.isnan(summed([of(1.0, part), of(1.0, unknown)]).gradients[0])
    assert summed([of(1.0), Given(1.0, NONE, of_gradients=Shares.of([PLAIN]))]).gradients[0] == 1.0


def test_a_report_to_which_somebody_gave_nothing_is_not_complete():
    assert summed([of(1.0), of(1.0)]).is_complete
    assert not summed([of(1.0), None]).is_complete


@pytest.mark.parametrize(
    ("losses", "mean"),
    [
        ((1.0, 3.0), 2.0),
        ((1.0, math.nan), math.nan),
        ((1.0, math.inf), math.inf),
        ((None, None), None),
        ((2.0, None), 2.0),
    ],
)
def test_the_loss_is_the_mean_of_those_that_have_one(losses, mean):
    found = summed([of(1.0, loss=loss) for loss in losses])
    assert found.loss == mean or (mean is not None and math.isnan(mean) and math.isnan(found.loss or 0.0))
    assert found.slots is not None
    np.testing.assert_equal(found.slots[:, 0], [math.nan if loss is None else loss for loss in losses])


def test_an_infinite_norm_stays_infinite_and_a_large_one_finite():
    assert summed([of(math.inf), of(1.0)]).gradients[0] == math.inf
    assert summed([of(math.inf), of(math.inf)]).gradients[0] == math.inf
    part = Placement(1, 2, is_spread=True)
    assert np.isfinite(summed([of(3e38, part), of(3e38, part)]).gradients[0])


def test_a_decision_of_rank_0_comes_through():
    whole = pack(None, np.arange(1), 1, 0, 2, Decision(17, 8, updates=True)) + pack(of(1.0), np.arange(1), 1, 1, 2)
    assert merged(whole, 1, 2).decision == Decision(17, 8, updates=True)
    assert summed([of(1.0), of(1.0)]).decision is None


def test_ranks_are_not_told_apart_where_there_are_too_many():
    assert size_of(10, MOST_SLOTS) - size_of(10, MOST_SLOTS + 1) == len(SLOT) * MOST_SLOTS
    whole = pack(of(1.0), np.arange(1), 1, 5000, 10_000)
    assert merged(whole, 1, 10_000).slots is None
