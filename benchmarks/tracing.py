"""One traced step against the same step bare: time side by side in one run, peak memory in a process of its own."""

from __future__ import annotations

import gc
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from benchmarks.networks import CONTESTS, Job, residual

import gradtrace


def bare(job: Job) -> None:
    """Forward and backward, as a training loop does them."""
    model, loss_fn, batch = job
    model.zero_grad()
    loss_fn(model, batch).backward()


def traced(job: Job) -> None:
    """The same step, measured op by op."""
    job[0].zero_grad()
    gradtrace.trace(*job)


def time_pairs(name: str) -> tuple[float, float]:
    """Median seconds of the bare step, and median ratio of the pairs (after one of each to warm up)."""
    torch.manual_seed(0)
    job = CONTESTS[name].make()
    seconds = []
    for _ in range(CONTESTS[name].pairs + 1):
        pair = []
        for step in (bare, traced):
            gc.collect()
            start = time.perf_counter()
            step(job)
            pair.append(time.perf_counter() - start)
        seconds.append(pair)
    return (
        statistics.median(pair[0] for pair in seconds[1:]),
        statistics.median(pair[1] / pair[0] for pair in seconds[1:]),
    )


def memory(name: str) -> float:
    """Peak memory that tracing adds, as a fraction of what the job and its bare step take."""
    command = [sys.executable, "-m", "benchmarks.tracing", name]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def _peak() -> int:
    """Peak memory of this process in KiB; `ru_maxrss` would start at the peak of the process that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)


def _measure_memory(name: str) -> float:
    torch.manual_seed(0)
    for step in (bare, traced):  # whatever is imported or allocated once
        step(residual(2, 64, 8))
    empty = _peak()
    job = CONTESTS[name].make()
    for _ in range(3):
        bare(job)
    before = _peak()
    for _ in range(2):
        traced(job)
    return (_peak() - before) / (before - empty)


if __name__ == "__main__":
    print(_measure_memory(sys.argv[1]))
