"""What this torch can do in several processes on a CPU, asked of torch alone."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from tests.distributed.processes import Ended, on_ranks, values
from tests.distributed.trainings import Net, laid_out


def skip_what_torch_cannot(layout: str) -> None:
    """In torch 2.6 a stream of the CPU has no events, without which nothing that is sharded is called."""
    error = _why_not_sharded() if "fsdp" in layout or "hsdp" in layout else ""
    if error:
        pytest.skip(f"this torch cannot train what fully_shard made on a CPU: {error}")


def skip_where_torch_sums(layout: str) -> None:
    """In torch 2.8 the gradients of what is sharded are summed over the ranks of a CPU, where they should be averaged.

    Adam hides that; norms that are held against those of one process do not.
    """
    skip_what_torch_cannot(layout)
    if ("fsdp" in layout or "hsdp" in layout) and _times_too_large() > 1.5:
        pytest.skip("fully_shard of this torch sums the gradients of CPUs, with or without a watch")


def skip_where_pipelines_hang() -> None:
    """In torch 2.6 the first step of a schedule never ends on a CPU."""
    if not _pipelines_end():
        pytest.skip("a pipeline's schedule of this torch does not end on a CPU, with nobody watching")


@cache
def _pipelines_end() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        ended = on_ranks(_scheduled, 2, Path(folder), within_s=20.0)
    return [one.exit_code for one in ended] == [0, 0] and not any(one.error for one in ended)


def _scheduled(rank: int, size: int) -> None:
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    stage = PipelineStage(torch.nn.Linear(3, 3), rank, size, torch.device("cpu"))
    schedule = Schedule1F1B(stage, 4, loss_fn=lambda y, target: (y - target).square().mean())
    if rank == 0:
        schedule.step(torch.ones(8, 3))
    else:
        schedule.step(target=torch.ones(8, 3))


@cache
def _why_not_sharded() -> str:
    """The last line of the error, with nobody watching; '' where it trains."""
    (ended,) = _ended(1)
    assert ended.exit_code == 0
    return (ended.error.strip().splitlines() or [""])[-1]


@cache
def _times_too_large() -> float:
    """The norm of a gradient over that of one process, with nobody watching."""
    (one,), (two, _) = values(_ended(1)), values(_ended(2))
    return float(two / one)


def _ended(size: int) -> list[Ended]:
    with tempfile.TemporaryDirectory() as folder:
        return on_ranks(_bare, size, Path(folder))


def _bare(rank: int, size: int) -> float:
    torch.manual_seed(0)
    model, *_ = laid_out(Net(), "fsdp", size)
    model(torch.ones(2, 5)).square().mean().backward()
    return float(model.last.bias.grad.full_tensor().norm())
