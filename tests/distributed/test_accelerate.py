"""A training that accelerate has prepared for two processes is one run, with the norms of the whole batch."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from tests.distributed.processes import on_ranks, values
from tests.distributed.trainings import Net, batches, told, train

import gradtrace

KNOWN = 12
"""[steps] Of the opening that must have come back, however slow the machine is."""


def test_accelerate_on_two_processes(tmp_path):
    pytest.importorskip("accelerate")
    (first, kind), (second, _) = values(on_ranks(_accelerated, 2, tmp_path))
    torch.manual_seed(0)
    truth = train(0, 1, "")["run"]
    assert kind == "DistributedDataParallel"
    assert first["notes"] == ()
    assert second["notes"] == ("this is rank 1 of 2: rank 0 tells of all of them",)
    for numbers in ("gradients", "loss"):
        np.testing.assert_allclose(first[numbers][:KNOWN], truth[numbers][:KNOWN], rtol=1e-5)


def _accelerated(rank, size):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model, optimizer = accelerator.prepare(model, optimizer)
    with gradtrace.watch(model, optimizer, budget=10.0, every=10_000) as watch:
        for batch in batches():
            optimizer.zero_grad()
            accelerator.backward(model(batch.chunk(size)[rank]).square().mean())
            accelerator.wait_for_everyone()
            optimizer.step()
    return told(watch.run), type(model).__name__
