"""The largest entry of a gradient, its zeros and what is not finite: of all ranks as of the whole tensor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.distributed.capability import skip_what_torch_cannot
from tests.distributed.processes import on_ranks, values
from tests.distributed.trainings import Net, batches, laid_out

import gradtrace
from gradtrace.distributed.placement import PLAIN, Placement
from gradtrace.distributed.report.given import Given, Shares, largest_of, pack
from gradtrace.distributed.report.merged import Merged, merged
from gradtrace.monitor.statistics.entries import entries
from gradtrace.runs.reader import read_run

PLACES = np.arange(1)


def of(tensor: torch.Tensor, placement: Placement) -> Given:
    shares = Shares.of([placement])
    return Given(1.0, np.ones(1, np.float32), entries=entries([tensor]).numpy(), of_gradients=shares)


def summed(ranks: list[Given | None], order: list[int] | None = None) -> tuple[Merged, float]:
    whole, largest = np.zeros(0), np.full(1, -np.inf)
    for rank in order or range(len(ranks)):
        packed = pack(ranks[rank], PLACES, 1, rank, len(ranks))
        whole = packed if not whole.size else whole + packed
        largest = np.maximum(largest, largest_of(ranks[rank], PLACES, 1))
    return merged(whole, 1, len(ranks)), float(largest[0])


entry = st.one_of(st.just(0.0), st.floats(-1e3, 1e3, width=32), st.sampled_from([math.nan, math.inf, -math.inf]))


@given(
    st.lists(st.lists(entry, max_size=6), min_size=2, max_size=6),
    st.integers(1, 2),
    st.randoms(use_true_random=False),
)
def test_any_split_in_any_order_is_the_whole(shards, copies, random):
    """Empty shards among them, and each of them held so many times."""
    placement = Placement(replication=copies, num_ranks=copies * len(shards), is_spread=True)
    ranks: list[Given | None] = [of(torch.tensor(shard), placement) for shard in shards * copies]
    order = list(range(len(ranks)))
    random.shuffle(order)
    found, largest = summed(ranks, order)
    whole = np.concatenate([np.array(shard, np.float32) for shard in shards])
    assert found.zeros is not None
    assert found.nonfinite is not None
    assert found.zeros[0] == (whole == 0).sum()
    assert found.nonfinite[0] == (~np.isfinite(whole)).sum()
    size = np.abs(whole).max(initial=0.0)
    assert largest == (math.inf if math.isnan(size) else size)


@given(st.lists(entry, min_size=1, max_size=5), st.integers(2, 5))
def test_replicas_count_once(numbers, num):
    found, _ = summed([of(torch.tensor(numbers), PLAIN)] * num)
    assert found.zeros is not None
    assert found.zeros[0] == sum(one == 0.0 for one in numbers)


def test_a_shard_of_which_a_rank_says_nothing_is_not_known():
    part = Placement(1, 2, is_spread=True)
    found, _ = summed([of(torch.ones(2), part), None])
    assert found.zeros is not None
    assert math.isnan(found.zeros[0])
    assert summed([None, None])[0].zeros is None


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (torch.zeros(0), (0.0, 0.0, 0.0)),
        (torch.tensor([3 + 4j, 0j]), (5.0, 1.0, 0.0)),
        (torch.tensor([-2.0, 0.0], dtype=torch.bfloat16), (2.0, 1.0, 0.0)),
        (torch.sparse_coo_tensor([[0, 0, 3]], [1.0, 2.0, 0.0], (5,), check_invariants=True), (3.0, 4.0, 0.0)),
    ],
)
def test_tensors_of_every_kind(tensor, told):
    assert entries([tensor]).tolist() == list(told)
    assert entries([tensor], torch.tensor(2.0)).tolist() == [told[0] / 2.0, *told[1:]]


@pytest.mark.parametrize(("layout", "size"), [("ddp", 2), ("fsdp", 4), ("tp", 2)])
def test_a_training_on_several_ranks_is_one_in_one_process(layout, size, tmp_path):
    skip_what_torch_cannot(layout)
    (tmp_path / "ranks").mkdir()
    path = tmp_path / "run.db"
    truth = values(on_ranks(train, size, tmp_path / "ranks", layout, str(path)))[0]
    run = read_run(path)
    assert run.entries is not None
    assert {0, 1, 2, 4, 8} <= set(run.entries.steps.tolist())
    for place, step in enumerate(run.entries.steps[:5].tolist()):
        for column, gradient in enumerate(truth[step]):
            assert run.entries.largest[place, column] == pytest.approx(np.abs(gradient).max(), rel=1e-4, abs=1e-8)
            assert run.entries.zero_frac[place, column] == pytest.approx((gradient == 0).mean())
            assert run.entries.nonfinite_frac[place, column] == 0.0
    assert any((gradient == 0).any() for of_step in truth for gradient in of_step)


def train(rank: int, size: int, layout: str, path: str) -> Any:
    """Gradients of one process with the whole batch, beside the training; two of second's units are dead."""
    torch.manual_seed(0)
    twin = Net()
    with torch.no_grad():
        twin.second.bias[:2] = -100.0
    model, share, num_shares = laid_out(_copy(twin), layout, size)
    both = [torch.optim.SGD(one.parameters(), lr=0.1) for one in (model, twin)]
    truth = []
    with gradtrace.watch(model, both[0], path=path, budget=10.0, every=10_000):
        for batch in batches():
            both[0].zero_grad()
            model(batch.chunk(num_shares)[share]).square().mean().backward()
            torch.distributed.barrier()
            both[0].step()
    for batch in batches():
        both[1].zero_grad()
        twin(batch).square().mean().backward()
        truth.append([parameter.grad.numpy().copy() for parameter in twin.parameters() if parameter.grad is not None])
        both[1].step()
    return truth


def _copy(net: Net) -> Net:
    twin = Net()
    twin.load_state_dict(net.state_dict())
    return twin
