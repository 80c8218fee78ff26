"""Ranks that do not do the same: one leaves steps out, has parameters without gradient, or trains another model."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.distributed as dist
from tests.distributed.processes import on_ranks, values
from tests.distributed.trainings import Net, batches, told
from torch import nn

import gradtrace

AGREED = 12
"""[steps] Of the opening that must have come back, however slow the machine is."""

LEFT_OUT = (14, 15)


class Skipping(Net):
    """Takes no gradient to its second layer, if so told."""

    skips = False

    def forward(self, x):
        y = torch.tanh(self.first(x))
        return self.last(torch.relu(y if self.skips else self.second(y)))


class Featured(nn.Module):
    """Features that each rank has by itself, what it has seen, and a norm whose statistics are each rank's own."""

    def __init__(self, rank):
        super().__init__()
        self.linear, self.norm, self.rank = nn.Linear(5, 5), nn.BatchNorm1d(5), rank
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("frequencies", torch.full((5,), 1.0 + rank))
        self.register_buffer("table", torch.ones(5))
        self.register_buffer("seen", torch.zeros(5))

    def forward(self, x):
        self.seen = x.mean(0) + self.rank
        return self.norm(self.linear(x * self.frequencies) * self.table)


def test_ranks_that_do_not_do_the_same(tmp_path):
    first, second = values(on_ranks(_odd, 2, tmp_path))
    leaves_out, without, another, buffered, sent = (run for run, *_ in first)
    assert [len(run["first"]) for run, *_ in first] == [20] * 5
    assert [len(run["first"]) for run, *_ in second] == [18, *[20] * 4]
    for run in (leaves_out, without, another, buffered, sent):
        assert (~np.isnan(run["gradients"][:AGREED])).all()
    np.testing.assert_allclose(without["gradients"][0], first[1][1], rtol=1e-5)
    assert leaves_out["notes"][0].startswith("since step 14 gradients are not the same on all ranks (")
    assert without["notes"] == another["notes"] == sent["notes"] == ()
    owns = [first[1][2], second[1][2]]  # heard in the model within the wrapper
    assert owns[0] != owns[1]
    np.testing.assert_allclose(first[1][3].gradient[0], owns, rtol=1e-5)
    (note,) = buffered["notes"]
    assert note == "buffers are not the same on all ranks from step 0 on: module.frequencies, module.seen"
    assert another["names"] == ["0.weight", "0.bias", "0.weight (rank 1)", "0.bias (rank 1)"]


def _odd(rank, size):
    torch.manual_seed(0)
    model = Skipping()
    model.skips = rank == 1
    wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    apart = nn.parallel.DistributedDataParallel(Featured(rank), broadcast_buffers=False)
    apart.module.frequencies.fill_(1.0 + rank)  # which were rank 0's once it was wrapped
    return [
        _trained(Net(), LEFT_OUT if rank == 1 else ()),
        _trained(wrapped, watches=lambda wrapper: wrapper.module),
        _trained(nn.Sequential(nn.Linear(5, 3 + rank))),
        _trained(apart),
        _trained(nn.parallel.DistributedDataParallel(Featured(rank)), watches=lambda wrapper: wrapper.module),
    ]


def _trained(model, left_out=(), watches=lambda model: model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms, own = None, math.nan
    with gradtrace.watch(watches(model), optimizer, budget=10.0, every=10_000) as watch:
        for step, batch in enumerate(batches()):
            dist.barrier()
            if step in left_out:
                continue
            optimizer.zero_grad()
            loss = model(batch).square().mean()
            if math.isnan(own):
                found = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True)
                own = math.sqrt(sum(float(g.norm()) ** 2 for g in found if g is not None))
            loss.backward()
            norms = [float(p.grad.norm()) for p in model.parameters()] if norms is None else norms
            optimizer.step()
    return told(watch.run), norms, own, watch.run.ranks
