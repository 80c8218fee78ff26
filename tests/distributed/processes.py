"""Starts a function on several ranks, each a process of its own, and says what came of each."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PRELOADED = ("gradtrace.monitor.watch", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor.parallel")


@dataclass(frozen=True)
class Ended:
    """What became of one rank."""

    value: Any = None
    error: str = ""
    exit_code: int | None = 0
    """None: it did not end in time, and was killed."""


def on_ranks(function: Callable[..., Any], size: int, folder: Path, *args: Any, within_s: float = 120.0) -> list[Ended]:
    """``function(rank, size, *args)`` with a process group of gloo; `folder` is empty."""
    context = multiprocessing.get_context("forkserver")  # torch is imported once
    context.set_forkserver_preload(list(PRELOADED))
    started = [
        context.Process(target=_run, args=(function, rank, size, str(folder), args), daemon=True)
        for rank in range(size)
    ]
    for process in started:
        process.start()
    ended = []
    for rank, process in enumerate(started):
        process.join(within_s)
        code = process.exitcode
        if code is None:
            process.kill()
            process.join()
        file = folder / f"{rank}.pickle"
        value, error = pickle.loads(file.read_bytes()) if file.exists() else (None, "")
        ended.append(Ended(value, error, code))
    return ended


def values(ended: list[Ended]) -> list[Any]:
    """Of ranks that all ended well."""
    assert [(one.error, one.exit_code) for one in ended] == [("", 0)] * len(ended)
    return [one.value for one in ended]


def _run(function: Callable[..., Any], rank: int, size: int, folder: str, args: tuple[Any, ...]) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    told: tuple[Any, str] = None, ""
    try:
        told = function(rank, size, *args), ""
    except BaseException:
        told = None, traceback.format_exc()
    with open(os.path.join(folder, f"{rank}.pickle"), "wb") as file:  # noqa: PTH118, PTH123
        pickle.dump(told, file)
    if dist.is_initialized():
        dist.destroy_process_group()
