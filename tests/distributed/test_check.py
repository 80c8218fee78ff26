"""A model that is trained on several ranks is checked on any of them, or a sentence says what to do."""

from __future__ import annotations

import pytest
import torch
from tests.distributed.processes import on_ranks, values
from tests.distributed.trainings import Net, laid_out

import gradtrace
from gradtrace.errors import InputError


class Normed(Net):
    """Has buffers, which DistributedDataParallel sends to all ranks before each forward pass."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(5)

    def forward(self, x):
        return super().forward(self.norm(x))


def _checked(rank, size, layout):
    torch.manual_seed(0)
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


def test_check_on_one_rank_of_ddp(tmp_path):
    healthy, notes = values(on_ranks(_checked, 2, tmp_path, "ddp"))[0]
    assert healthy
    assert "the model is wrapped in DistributedDataParallel: traced on this rank alone, with its own batch" in notes


@pytest.mark.parametrize("layout", ["fsdp", "tp"])
def test_check_of_what_is_sharded_says_what_to_do(layout, tmp_path):
    told = values(on_ranks(_checked, 2, tmp_path, layout))[0]
    assert "is sharded over several ranks" in told
    assert "give the model as it is before fully_shard or parallelize_module; gradtrace.watch measures it" in told
