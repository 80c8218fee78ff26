"""One small training on any number of ranks, laid out in different ways, with the global batch that one process has."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn

import gradtrace

if TYPE_CHECKING:
    from pathlib import Path

STEPS, BATCH = 20, 8


class Net(nn.Module):
    """Biases of 3: uneven shards on two ranks, empty ones on four."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(torch.relu(self.second(torch.tanh(self.first(x)))))
        return y


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(BATCH, 5, generator=generator) for _ in range(STEPS)]


def laid_out(model: Any, layout: str, size: int) -> tuple[Any, int, int]:
    """The model on this rank, and in which of how many shares of the batch it is trained."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    rank = dist.get_rank() if size > 1 else 0
    plan = {"first": ColwiseParallel(), "second": RowwiseParallel()}
    if layout == "ddp":
        return nn.parallel.DistributedDataParallel(model), rank, size
    if layout == "fsdp":
        mesh = init_device_mesh("cpu", (size,))
        for part in (model.first, model.second):
            fully_shard(part, mesh=mesh)
        return fully_shard(model, mesh=mesh), rank, size
    if layout == "hsdp":
        mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("copies", "shards"))
        fully_shard(model.first, mesh=mesh)
        return fully_shard(model, mesh=mesh), rank, size
    if layout == "some fsdp":  # beside plain tensors that nobody averages: all ranks have the whole batch
        fully_shard(model.first, mesh=init_device_mesh("cpu", (size,)))
        return model, 0, 1
    if layout == "tp":
        parallelize_module(model, init_device_mesh("cpu", (size,)), plan)
        return model, 0, 1
    if layout == "fsdp x tp":
        mesh = init_device_mesh("cpu", (size // 2, 2), mesh_dim_names=("data", "tensor"))
        parallelize_module(model, mesh["tensor"], plan)
        fully_shard(model.first, mesh=mesh["data"])
        return fully_shard(model, mesh=mesh["data"]), rank // 2, size // 2
    return model, 0, 1


def train(
    rank: int, size: int, layout: str, *, watched: bool = True, path: Path | None = None, **options: Any
) -> dict[str, Any]:
    """Losses and weights as they were trained, and what the watch has of them."""
    torch.manual_seed(0)
    model, share, num_shares = laid_out(Net(), layout, size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    options = {"budget": 10.0, "every": 10_000, "path": path} | options
    losses = []
    with gradtrace.watch(model, optimizer, **options) if watched else contextlib.nullcontext() as watch:
        for batch in batches():
            optimizer.zero_grad()
            loss = model(batch.chunk(num_shares)[share]).square().mean()
            loss.backward()
            if size > 1:
                dist.barrier()  # as slow as a training is: a report comes back before the next steps are over
            optimizer.step()
            losses.append(loss.item())
    weights = [getattr(p.detach(), "to_local", p.detach)().clone().numpy() for p in model.parameters()]
    return {"losses": losses, "weights": weights, "run": told(watch.run) if watched else None}


def told(run: Any) -> dict[str, Any]:
    """A run, as it travels from process to process."""
    return {
        "names": [p.name for p in run.header.parameters],
        "notes": run.notes,
        "first": run.steps.first,
        "loss": run.steps.scalar("loss")[1],
        "whole": run.steps.scalar("gradient_norm")[1],
        "gradients": run.steps.series("gradient_norm")[1],
        "weights": run.steps.series("weight_norm")[1],
        "updates": run.steps.series("update_ratio")[1],
        "samples": run.samples,
        "finished": run.finished,
    }
