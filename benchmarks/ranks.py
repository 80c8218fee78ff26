"""What a watch costs where two ranks train together, and what one report costs: `python -m benchmarks.ranks`.

Pairs in one run: two copies of one training take turns, block by block in an order that is random and the same on both
ranks, one bare and one watched. The median over pairs of (watched / bare) is what all ranks together are slower, since
each waits for the other at every step.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import random
import socket
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from benchmarks.twins import StandIns
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import gradtrace
from gradtrace.distributed.placement import PLAIN
from gradtrace.distributed.report.fields import size_of
from gradtrace.distributed.report.given import Given, Shares, pack
from gradtrace.distributed.report.merged import merged

WIDTH, DEPTH, BATCH = 512, 24, 64
BLOCK, WARM_UP_STEPS = 16, 5
AIM = 1.03
COLUMNS = (100, 1_000, 10_000)


def network(layout: str) -> nn.Module:
    """Blocks of a linear layer, a norm and a non-linearity: three parameters and more a block."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.GELU()) for _ in range(DEPTH)]
    model = nn.Sequential(*blocks, nn.Linear(WIDTH, 1))
    if layout == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


class Turn:
    """One copy of the training; the watched one is watched from its first step to its last."""

    def __init__(self, layout: str, *, watched: bool) -> None:
        self._model = network(layout)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-4)
        self._generator = torch.Generator().manual_seed(dist.get_rank())
        self._stand_ins, self._stack = StandIns(self._model), contextlib.ExitStack()
        self.watch: Any = None
        self.steps(WARM_UP_STEPS)
        if watched:
            with self._stand_ins.there():
                self.watch = self._stack.enter_context(gradtrace.watch(self._model, self._optimizer))

    def steps(self, num: int) -> float:
        """Seconds that they take."""
        with self._stand_ins.there():
            begun = time.perf_counter()
            for _ in range(num):
                x = torch.randn(BATCH, WIDTH, generator=self._generator)
                self._optimizer.zero_grad()
                self._model(x).square().mean().backward()
                self._optimizer.step()
            return time.perf_counter() - begun

    def end(self) -> None:
        with self._stand_ins.there():
            self._stack.close()


def race(rank: int, size: int, address: str, layout: str, seconds: float, path: str) -> None:
    """On one rank."""
    _join(rank, size, address)
    torch.set_flush_denormal(True)
    bare, watched = Turn(layout, watched=False), Turn(layout, watched=True)
    order, pairs = random.Random(0), list[tuple[float, float]]()
    step_s = torch.tensor(bare.steps(BLOCK) / BLOCK)
    dist.all_reduce(step_s)
    for _ in range(max(4, int(seconds / (2 * BLOCK * float(step_s) / size)))):
        gc.collect()
        turns = [("bare", bare), ("watched", watched)]
        took = {name: turn.steps(BLOCK) for name, turn in order.sample(turns, 2)}
        pairs.append((took["bare"], took["watched"]))
    watched.end()
    if rank == 0:
        ratios = [b / a for a, b in pairs]
        known = int((~np.isnan(watched.watch.run.steps.series("gradient_norm")[1])).any(axis=1).sum())
        told = {
            "ratio": median(ratios),
            "quarters": quantiles(ratios, n=4),
            "step_s": median(a for a, _ in pairs) / BLOCK,
            "whole": sum(b for _, b in pairs) / sum(a for a, _ in pairs),
            "reported": known,
            "steps": len(pairs) * BLOCK,
        }
        Path(path).write_text(json.dumps(told))
    dist.destroy_process_group()


def reports(rank: int, size: int, address: str, path: str) -> None:
    """What one report costs this rank, with as many columns as models have; of many the quickest."""
    _join(rank, size, address)
    store = dist.distributed_c10d._get_default_store()  # type: ignore[attr-defined]
    group = dist.ProcessGroupGloo(dist.PrefixStore("benchmark", store), rank, size, timedelta(seconds=60))
    rows = []
    for num in COLUMNS:
        norms, places = np.ones(num, np.float32), np.arange(num)
        shares = Shares.of([PLAIN] * num)
        given = Given(
            1.0, norms, None, norms, norms, entries=np.ones(3 * num, np.float32), of_gradients=shares, of_weights=shares
        )
        packing = _quickest(lambda given=given, places=places, num=num: pack(given, places, num, rank, size))
        whole = torch.from_numpy(pack(given, places, num, rank, size))
        summing = _quickest(lambda whole=whole: group.allreduce([whole]).wait())
        reading = _quickest(lambda whole=whole, num=num: merged(whole.numpy(), num, size))
        cpu = time.process_time()
        for _ in range(20):
            group.allreduce([whole]).wait()
        rows.append((num, 8 * size_of(num, size), packing, summing, (time.process_time() - cpu) / 20, reading))
    if rank == 0:
        Path(path).write_text(json.dumps(rows))
    dist.destroy_process_group()


def _quickest(call: Any, num: int = 30) -> float:
    times = []
    for _ in range(num):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return min(times)


def _join(rank: int, size: int, address: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=size)


def _spawn(function: Any, size: int, *args: Any) -> Any:
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        path = Path(folder) / "told.json"
        mp.spawn(function, args=(size, f"tcp://127.0.0.1:{port}", *args, str(path)), nprocs=size)
        return json.loads(path.read_text())


def races(seconds: float) -> Table:
    """DDP and FSDP2 on two ranks."""
    table = Table(
        title=f"Two ranks, watched against bare ({DEPTH} blocks of width {WIDTH}, torch {torch.__version__}, CPU)"
    )
    for heading in (
        "layout",
        "bare step [ms]",
        "watched / bare, median pair",
        "quarters",
        "whole",
        "aim",
        "reported of",
    ):
        table.add_column(heading, justify="left" if heading == "layout" else "right")
    for layout in ("ddp", "fsdp"):
        told = _spawn(race, 2, layout, seconds)
        low, _, high = told["quarters"]
        table.add_row(layout, f"{told['step_s'] * 1e3:.1f}", f"{told['ratio']:.3f}", f"{low:.3f} to {high:.3f}",
                      f"{told['whole']:.3f}", f"{AIM}", f"{told['reported']} of {told['steps']}")  # fmt: skip
    return table


def costs() -> Table:
    """Of one report, on 1, 2 and 4 ranks."""
    table = Table(title="One report on this machine")
    for heading in (
        "ranks",
        "columns",
        "bytes",
        "packing [us]",
        "sum, alone [us]",
        "its CPU time [us]",
        "reading [us]",
    ):
        table.add_column(heading, justify="right")
    for size in (1, 2, 4):
        for num, num_bytes, *seconds in _spawn(reports, size):
            table.add_row(f"{size}", f"{num:,}", f"{num_bytes:,}", *(f"{1e6 * one:,.0f}" for one in seconds))
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="of each race")
    parser.add_argument("--reports-only", action="store_true")
    options = parser.parse_args()
    console = Console()
    console.print(costs())
    if not options.reports_only:
        console.print(races(options.seconds))
