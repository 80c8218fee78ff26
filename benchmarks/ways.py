"""The ways of watching a loop that are set side by side, each with what its own documentation says a loop should call.

A way is a context around a twin of the loop; inside, `Watcher.step` is the loop's step as that way wants it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from benchmarks.loops import Loop

import gradtrace
import gradtrace.monitor.watch
from gradtrace.monitor.schedule.cost import Level
from gradtrace.monitor.schedule.schedule import Schedule


class Clock:
    """Seconds that one twin was stepping: it stands while the others do, or a budget would be earned by their time."""

    def __init__(self) -> None:
        self._total_s, self._since = 0.0, math.nan

    def start(self) -> None:
        self._since = time.perf_counter()

    def stop(self) -> float:
        """Seconds since `start`."""
        elapsed, self._since = time.perf_counter() - self._since, math.nan
        self._total_s += elapsed
        return elapsed

    def __call__(self) -> float:
        running = not math.isnan(self._since)
        return self._total_s + (time.perf_counter() - self._since if running else 0.0)


@dataclass(slots=True)
class Watcher:
    """What a way hands out; the numbers are asked for after its end, and None where a way keeps no account."""

    step: Callable[[], object]
    spent_frac: Callable[[], float | None] = lambda: None
    measured_frac: Callable[[], float | None] = lambda: None


Way = Callable[[Loop, Path, Clock], AbstractContextManager[Watcher]]


@contextlib.contextmanager
def bare(loop: Loop, _folder: Path, _clock: Clock) -> Iterator[Watcher]:
    yield Watcher(loop.step)


@contextlib.contextmanager
def every_step(loop: Loop, folder: Path, clock: Clock) -> Iterator[Watcher]:
    """Norms at every step, whatever they cost."""
    with _watched(loop, folder / "every.db", clock, 1.0) as watcher:
        yield watcher


@contextlib.contextmanager
def into_a_file(loop: Loop, folder: Path, clock: Clock) -> Iterator[Watcher]:
    with _watched(loop, folder / "run.db", clock, 0.02) as watcher:
        yield watcher


@contextlib.contextmanager
def in_memory(loop: Loop, _folder: Path, clock: Clock) -> Iterator[Watcher]:
    with _watched(loop, None, clock, 0.02) as watcher:
        yield watcher


@contextlib.contextmanager
def _watched(loop: Loop, path: Path | None, clock: Clock, budget: float) -> Iterator[Watcher]:
    watch = gradtrace.watch(loop.models, loop.optimizers, path=path, budget=budget)
    schedules: list[Schedule] = []

    def schedule(*args: Any, **kwargs: Any) -> Schedule:
        schedules.append(Schedule(*args, **kwargs, clock=clock))
        return schedules[-1]

    with patch.object(gradtrace.monitor.watch, "Schedule", schedule):
        watch.start()
    try:
        yield Watcher(loop.step, lambda: spent, lambda: measured)
    finally:
        watch.close()
        cost = watch.run.cost
        spent = cost.frac if cost is not None else None
        rows = schedules[0].cost.rows
        measured = rows[Level.MEASURE] / max(sum(rows.values()), 1)


@contextlib.contextmanager
def anomaly_mode(loop: Loop, _folder: Path, _clock: Clock) -> Iterator[Watcher]:
    def step() -> None:
        with torch.autograd.set_detect_anomaly(True):
            loop.step()

    yield Watcher(step)


@contextlib.contextmanager
def wandb_watch(loop: Loop, folder: Path, _clock: Clock) -> Iterator[Watcher]:
    os.environ |= {"WANDB_SILENT": "true", "WANDB_MODE": "offline", "WANDB_DIR": str(folder)}
    import wandb

    run = wandb.init(project="benchmark", mode="offline", dir=str(folder))
    run.watch(loop.whole, log="all", log_freq=1)
    try:
        yield Watcher(lambda: run.log({"loss": loop.step()}))
    finally:
        run.unwatch(loop.whole)
        run.finish()


@contextlib.contextmanager
def torchmortem(loop: Loop, _folder: Path, _clock: Clock) -> Iterator[Watcher]:
    """Its default sampling takes the cheap statistics at every step, the dear ones at every 50th."""
    from torchmortem import Autopsy

    with Autopsy(loop.whole, optimizer=loop.optimizers[0]) as autopsy:
        yield Watcher(lambda: autopsy.step(loss=loop.step()))


@contextlib.contextmanager
def neural_observatory(loop: Loop, _folder: Path, _clock: Clock) -> Iterator[Watcher]:
    """Its defaults: activations and gradients at every step, parameters when a report is made."""
    from neural_observatory import Observatory

    logging.getLogger("neural_observatory").setLevel(logging.ERROR)
    observatory = Observatory(loop.whole)
    observatory.watch()

    def step() -> None:
        observatory.step(step=loop.num_steps, epoch=0)
        loop.step()

    try:
        yield Watcher(step)
    finally:
        observatory.stop()


WAYS: dict[str, Way] = {
    "bare": bare,
    "bare again": bare,
    "norms at every step": every_step,
    "watch, into a file": into_a_file,
    "watch, in memory": in_memory,
    "anomaly mode": anomaly_mode,
    'wandb.watch(log="all")': wandb_watch,
    "torchmortem": torchmortem,
    "neural-observatory": neural_observatory,
}

OURS = ("norms at every step", "watch, into a file", "watch, in memory")

AIMS = {"watch, into a file": (1.02, 1.05), "watch, in memory": (1.02, 1.05)}
"""Of a run longer than a minute, and of its first 30 s."""

PEERS = {"anomaly mode": "torch", 'wandb.watch(log="all")': "wandb", "torchmortem": "torchmortem",
         "neural-observatory": "neural_observatory"}  # fmt: skip
"""The module that each needs."""


def is_installed(peer: str) -> bool:
    return importlib.util.find_spec(PEERS[peer]) is not None
