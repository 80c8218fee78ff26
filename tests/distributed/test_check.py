"""A model that is trained on several ranks is checked on any of them, or a sentence says what to do."""

from __future__ import annotations

import torch
from tests.distributed.processes import on_ranks, values
from tests.distributed.trainings import Net, laid_out
from torch.distributed.fsdp import FullyShardedDataParallel

import gradtrace
from gradtrace.errors import InputError


class Normed(Net):
    """Has buffers, which DistributedDataParallel sends to all ranks before each forward pass."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(5)

    def forward(self, x):
        return super().forward(self.norm(x))


def test_check_and_trace_on_one_rank(tmp_path):
    found = values(on_ranks(_all_checked, 2, tmp_path))[0]
    (healthy, notes), *refused = found
    assert healthy
    assert "the model is wrapped in DistributedDataParallel: traced on this rank alone, with its own batch" in notes
    assert len(refused) == 3
    for told in refused:
        assert "is sharded over several ranks" in told
        assert "give the model as it is before fully_shard (FullyShardedDataParallel) or parallelize_module; " in told


def _all_checked(rank, size):
    return [_checked(rank, size, layout) for layout in ("ddp", "fsdp", "fsdp's first version", "tp")]


def _checked(rank, size, layout):
    torch.manual_seed(0)
    if layout == "fsdp's first version":
        model = FullyShardedDataParallel(Normed(), device_id=torch.device("cpu"))
    else:
        model, *_ = laid_out(Normed(), layout, size)
    if rank > 0:
        return None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [torch.randn(8, 5) for _ in range(2)]
    try:
        found = gradtrace.check(model, lambda model, x: model(x).square().mean(), batches, optimizer=optimizer)
    except InputError as error:
        return str(error)
    return found.healthy, found.traces[0].coverage.notes
