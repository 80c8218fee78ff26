"""What looking through time costs: an LSTM unrolled and traced, its memory over the length, a Lyapunov spectrum."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from benchmarks.tracing import _peak
from torch import nn

import gradtrace
from gradtrace.checkup.steps_in_time import NUM_EXPONENTS
from gradtrace.recurrence.through_time import NUM_TARGETS, recurrences_through_time
from gradtrace.tape.unroll import unrolled

HIDDEN, BATCH, LENGTH = 256, 32, 200
LENGTHS = (100, 200, 400, 800)


def job(length: int = LENGTH) -> tuple[nn.Module, Callable, torch.Tensor]:
    torch.manual_seed(0)
    return nn.LSTM(64, HIDDEN, batch_first=True), lambda m, x: m(x)[0].square().mean(), torch.randn(BATCH, length, 64)


def fused_step(length: int = LENGTH) -> Callable[[], object]:
    model, loss_fn, x = job(length)
    return lambda: loss_fn(model, x).backward()


def unrolled_step() -> Callable[[], object]:
    model, loss_fn, x = job()

    def run() -> None:
        with unrolled(model):
            loss = loss_fn(model, x)
        loss.backward()

    return run


def traced_step() -> Callable[[], object]:
    return lambda: gradtrace.trace(*job(), unroll=True)


def time_resolved(length: int = LENGTH, targets: int = 0, exponents: int = 0) -> Callable[[], object]:
    return lambda: recurrences_through_time(*job(length), num_targets=targets, k=exponents)


def table() -> str:
    """Medians of interleaved runs, seconds and ratios."""
    steps = {
        "fused step": fused_step(),
        "unrolled step": unrolled_step(),
        "through time: loss gradient of every step": time_resolved(),
        "through time: with horizon and 8 exponents (a check)": time_resolved(LENGTH, NUM_TARGETS, NUM_EXPONENTS),
        "trace(unroll=True): every op of every step": traced_step(),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(6):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    bare = medians["fused step"]
    num_ops = len(gradtrace.trace(*job(), unroll=True).ops)
    lines = [f"LSTM, hidden {HIDDEN}, T = {LENGTH}, batch {BATCH}; {num_ops} ops unrolled"]
    lines += [f"  {name:<54}{value * 1e3:8.0f} ms  {value / bare:5.2f}x" for name, value in medians.items()]
    lines += ["peak memory over that of a process without it [MiB]"]
    lines += [f"  T = {length:<4}{memory(length):8.0f}" for length in LENGTHS]
    return "\n".join([*lines, spectrum()])


def spectrum(width: int = 256, length: int = 1000) -> str:
    torch.manual_seed(0)
    rnn = nn.RNN(8, width)
    seconds = []
    for k in (None, 8):
        start = time.perf_counter()
        gradtrace.lyapunov(rnn, lambda m, x: m(x), torch.randn(length, 1, 8), k=k)
        seconds.append(time.perf_counter() - start)
    return f"Lyapunov, N = {width}, T = {length}: whole spectrum {seconds[0]:.1f} s, the 8 largest {seconds[1]:.1f} s"


def memory(length: int) -> float:
    """Peak of a process of its own, in MiB, above what it takes before."""
    command = [sys.executable, "-m", "benchmarks.recurrence", str(length)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(table())
    else:
        time_resolved(4)()
        before = _peak()
        time_resolved(int(sys.argv[1]))()
        print((_peak() - before) / 1024)
