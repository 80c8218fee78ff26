"""Each rank takes a whole trace at the agreed step, and what rank 0 keeps is of all of them."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.distributed.capability import skip_what_torch_cannot
from tests.distributed.processes import on_ranks, values
from tests.distributed.trainings import Net, batches, laid_out

import gradtrace
from gradtrace.distributed.agreement import OPENING
from gradtrace.measure.path import Paths
from gradtrace.monitor.ranks import whole_traces
from gradtrace.runs.reader import read_trace

STEPS = 36


def train(
    rank: int, size: int, every: int | None = None, ill: str = "", path: str | None = None, layout: str = "ddp"
) -> Any:
    """What the watch has of traces, and each rank's own loss of step 0."""
    torch.manual_seed(0)
    model, *_ = laid_out(Net(), "" if ill == "apart" else layout, size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    is_watched = rank == 0 or ill != "unwatched"
    watch = gradtrace.watch(model, optimizer, path=path, budget=10.0, every=every) if is_watched else None
    with watch if watch is not None else nullcontext():
        for step, batch in enumerate((batches() + batches())[:STEPS]):
            if rank == 1 and step == 0 and ill == "slow":
                time.sleep(1.0)
            if rank == 1 and step == 2 and ill == "apart":
                break
            x = batch.chunk(size)[rank]
            optimizer.zero_grad()
            y = model(x)
            loss = (y.exp() if ill == "other ops" and rank == 1 else y).square().mean()
            loss.backward()
            if ill != "apart" or step < 2:  # while both are there
                dist.barrier()
            optimizer.step()
            losses.append(loss.item())
    if watch is None:
        return None
    return watch.traces, watch.run.samples, losses, watch.run.notes


@pytest.mark.parametrize(("layout", "size"), [("ddp", 2), ("ddp", 4), ("fsdp", 2), ("fsdp", 4), ("hsdp", 4)])
def test_the_traces_of_all_ranks_are_one(layout, size, tmp_path):
    skip_what_torch_cannot(layout)
    path = tmp_path / "run.db"
    told = values(on_ranks(train, size, _folder(tmp_path), 8, "", str(path), layout))
    (first, *others), samples, *_ = told[0]
    assert samples[0] == 0
    assert samples == (0, 1, 2, 4, 12, 20, 28)
    assert first.ranks.num_ranks == size
    assert all(one.ranks is not None and one.ranks.num_ranks == size for one in others[:3])
    assert first.loss == pytest.approx(sum(losses[0] for _, _, losses, _ in told) / size)
    assert max(spread for spread in first.ranks.spreads if spread is not None) > 0.01
    truth = gradtrace.trace(_net(), lambda model, x: model(x).square().mean(), batches()[0])
    ours, theirs = (_gains(trace) for trace in (first, truth))
    assert ours == pytest.approx(theirs, abs=1e-5)
    weights = {p.name.removeprefix("module."): (p.shape, p.affects_loss, p.module_called) for p in first.parameters}
    assert weights == {p.name: (p.shape, True, True) for p in truth.parameters}
    norms = [pytest.approx(p.norm, rel=1e-6) for p in truth.parameters]  # of the whole, and not of a rank's part
    assert [p.norm for p in first.parameters] == norms
    assert all(p.gradient is not None for p in first.parameters)
    assert {op.site.module_type for op in first.ops} <= {"Net", "Linear", "", "DistributedDataParallel"}
    assert not first.coverage.unknown
    paths = Paths(first)
    assert all(abs(paths.budget(op.index).residual) < 1e-9 for op in first.ops if op.received is not None)
    assert all(traces == () for traces, *_ in told[1:])
    assert read_trace(path, 0).ranks == first.ranks
    assert told[0][3] == ()


def test_as_the_budget_allows_later_ones_are_agreed_on(tmp_path):
    (traces, samples, *_), _ = values(on_ranks(train, 2, _folder(tmp_path)))
    of_all = [step for step, trace in zip(samples, traces, strict=True) if trace.ranks is not None]
    assert of_all[0] == 0
    assert any(step >= OPENING for step in of_all)
    alone = [trace for trace in traces if trace.ranks is None]
    assert alone  # rank 0 takes more of its own in the beginning
    assert all(whole_traces.OWN.format("1 of 2 ranks traced this step") in trace.coverage.notes for trace in alone)


@pytest.mark.parametrize(
    ("ill", "why"),
    [
        ("other ops", whole_traces.NOT_ALIKE),
        ("unwatched", whole_traces.TOO_LATE),
    ],
)
def test_where_they_cannot_be_merged_rank_0_s_own_stands(ill, why, tmp_path):
    begun = time.perf_counter()
    (traces, samples, losses, _), *_ = values(on_ranks(train, 2, _folder(tmp_path), 1000, ill))
    assert samples[0] == 0
    assert all(trace.ranks is None for trace in traces)
    assert whole_traces.OWN.format(why) in traces[0].coverage.notes
    assert traces[0].loss == pytest.approx(losses[0])
    assert time.perf_counter() - begun < 60.0


def test_a_slow_rank_is_waited_for_by_nobody_and_its_trace_comes_all_the_same(tmp_path):
    (traces, *_), _ = values(on_ranks(train, 2, _folder(tmp_path), 1000, "slow"))
    assert traces[0].ranks is not None


def test_a_rank_that_stops_leaves_rank_0_with_its_own(tmp_path):
    (traces, samples, *_), _ = values(on_ranks(train, 2, _folder(tmp_path), 6, "apart"))
    assert traces[0].ranks is not None
    later = [trace for step, trace in zip(samples[-len(traces) :], traces, strict=False) if step > 2]
    assert later
    assert later[-1].ranks is None


def _net() -> Net:
    torch.manual_seed(0)
    return Net()


def _gains(trace: Any) -> list[float]:
    """Decades along the way from behind the loss to the first layer, without what `fully_shard` itself records."""
    paths = Paths(trace)
    target = next(op.index for op in trace.ops if any(name.endswith("first.bias") for name in op.weights))
    way = [(trace.ops[step.op], step.gain_log10 + step.merge_log10) for step in paths.path(target)]
    assert all(gain == 0.0 for op, gain in way if "PostBackward" in op.name)
    return [gain for op, gain in way if op.received.numel > 1 and "PostBackward" not in op.name]


def _folder(tmp_path):
    (tmp_path / "ranks").mkdir()
    return tmp_path / "ranks"
