"""What tracing, judging and drawing cost per op, as networks grow: linear means the same per op."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.networks import residual
from rich.console import Console

import gradtrace
from gradtrace.diagnosis.judge import judge
from gradtrace.records.exhibit import Exhibit
from gradtrace.records.storage import save

NUM_BLOCKS = (110, 1_100, 11_000)
"""Of about nine ops each: 1e3, 1e4, 1e5 ops."""


def microseconds_per_op(num_blocks: int) -> tuple[int, dict[str, float]]:
    """Number of ops of a network of that many small residual blocks, and what each stage costs."""
    torch.manual_seed(0)
    trace, tracing = _timed(lambda: gradtrace.trace(*residual(num_blocks, 8, 4)))
    diagnosis, judging = _timed(lambda: judge(Exhibit(traces=(trace,)), title="residual"))
    _, showing = _timed(lambda: diagnosis.show(Console(file=io.StringIO(), width=100)))
    with tempfile.TemporaryDirectory() as folder:
        _, saving = _timed(lambda: save(trace, Path(folder) / "trace.json.gz"))
    costs = {"trace": tracing, "judge": judging, "show": showing, "save": saving}
    return len(trace.ops), {stage: seconds / len(trace.ops) * 1e6 for stage, seconds in costs.items()}


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start
