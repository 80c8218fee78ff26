"""Numbers merged over ranks, in any order and any split, are those of everything put together."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradtrace.distributed.traces.pool import Pool

finite = st.floats(-1e30, 1e30, allow_subnormal=False)


def merged(pools, order=None):
    order = order or range(len(pools))
    largest = pools[order[0]].largest_of()
    for place in order[1:]:
        largest = np.maximum(largest, pools[place].largest_of())
    sums = np.zeros_like(pools[0].sums(largest))
    for place in order:
        sums = sums + pools[place].sums(largest)
    for pool in pools:
        pool.read(largest, sums, len(pools))


@given(
    st.lists(st.lists(finite, max_size=4), min_size=1, max_size=6),
    st.floats(-140, 140),
    st.randoms(use_true_random=False),
)
def test_norms_of_any_split_in_any_order_at_any_scale(parts, decades, random):
    """Empty parts among them; the largest and its zeros and non-finite entries likewise."""
    tensors = [np.array(part, np.float64) * 10.0 ** (decades - 30) for part in parts]
    order = list(range(len(parts)))
    random.shuffle(order)
    pools, reads = [Pool() for _ in parts], []
    for pool, tensor in zip(pools, tensors, strict=True):
        num = float(tensor.size)
        reads.append(
            (
                pool.norm(float(np.linalg.norm(tensor))),
                pool.largest(float(np.abs(tensor).max(initial=0.0))),
                pool.mean(float((tensor == 0).mean()) if num else 0.0, num),
                pool.total(num),
            )
        )
    merged(pools, order)
    whole = np.concatenate(tensors)
    norm, largest, zeros, num = (read() for read in reads[0])
    assert norm**2 * len(parts) == pytest.approx(float((whole**2).sum()), rel=1e-12)
    assert largest == np.abs(whole).max(initial=0.0)
    assert zeros == pytest.approx((whole == 0).mean() if whole.size else 0.0, abs=1e-12)
    assert num == whole.size


@given(st.floats(1e-300, 1e300), st.integers(1, 9))
def test_what_is_the_same_on_all_ranks_stays_that_to_the_bit(norm, num):
    pools = [Pool() for _ in range(num)]
    reads = [(pool.norm(norm), pool.spread(0)) for pool in pools]
    merged(pools)
    assert [read() for read in reads[0]] == [norm, 0.0]


def test_spread_is_the_standard_deviation_by_the_root_mean_square():
    pools = [Pool(), Pool(), Pool()]
    for pool, norm in zip(pools, (1.0, 2.0, 6.0), strict=True):
        pool.norm(norm)
    merged(pools)
    assert pools[0].spread(0)() == pytest.approx(np.std([1, 2, 6]) / math.sqrt(41 / 3))


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_one_norm_that_is_not_finite_makes_the_whole_infinite(odd):
    pools = [Pool(), Pool()]
    reads = [pool.norm(norm) for pool, norm in zip(pools, (1.0, odd), strict=True)]
    share = pools[0].share(0.5, 0)
    pools[1].share(None, 0)
    merged(pools)
    assert (reads[0](), pools[0].spread(0)(), share()) == (math.inf, None, None)


def test_nothing_but_zeros_has_a_norm_of_zero_and_no_spread():
    pools = [Pool(), Pool()]
    reads = [pool.norm(0.0) for pool in pools]
    merged(pools)
    assert (reads[0](), pools[0].spread(0)()) == (0.0, None)


def test_what_a_rank_does_not_know_does_not_count():
    pools = [Pool(), Pool()]
    reads = [pool.mean(value) for pool, value in zip(pools, (math.nan, 3.0), strict=True)]
    none = [pool.mean(math.nan) for pool in pools]
    merged(pools)
    assert reads[0]() == 3.0
    assert math.isnan(none[0]())


def test_histograms_add_up_and_units_are_those_that_all_have():
    pools = [Pool(), Pool(), Pool()]
    bins = [((-3, 2), (1, 5)), (), ((1, 1), (4, 7))]
    histograms = [pool.histogram(one) for pool, one in zip(pools, bins, strict=True)]
    units = [pool.everywhere(one, 6) for pool, one in zip(pools, ((0, 2, 5), (2, 5), (1, 2, 5)), strict=True)]
    nobody = [pool.everywhere((), 1000) for pool in pools]
    merged(pools)
    assert histograms[1]() == ((-3, 2), (1, 6), (4, 7))
    assert units[0]() == (2, 5)
    assert nobody[0]() == ()
    assert len(pools[0].sums(pools[0].largest_of())) < 1000


def test_the_key_tells_structures_apart():
    def key(*what, num=1):
        pool = Pool()
        pool.same(*what)
        for _ in range(num):
            pool.norm(1.0)
        return pool.key

    assert key("a", 1) == key("a", 1)
    assert len({key("a", 1), key("a", 2), key("a", 1, num=2)}) == 3
