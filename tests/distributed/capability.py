"""What this torch can do in several processes on a CPU, asked of torch alone."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from tests.distributed.processes import on_ranks
from tests.distributed.trainings import Net, laid_out


def skip_what_torch_cannot(layout: str) -> None:
    """In torch 2.6 a stream of the CPU has no events, without which nothing that is sharded is called."""
    error = _why_not_sharded() if "fsdp" in layout or "hsdp" in layout else ""
    if error:
        pytest.skip(f"this torch cannot train what fully_shard made on a CPU: {error}")


@cache
def _why_not_sharded() -> str:
    """The last line of the error, with nobody watching; '' where it trains."""
    with tempfile.TemporaryDirectory() as folder:
        (ended,) = on_ranks(_bare, 1, Path(folder))
    assert ended.exit_code == 0
    return (ended.error.strip().splitlines() or [""])[-1]


def _bare(rank: int, size: int) -> None:
    model, *_ = laid_out(Net(), "fsdp", size)
    model(torch.ones(2, 5)).square().mean().backward()
