"""Is it the same on a GPU, and what does it cost there? `python -m benchmarks.gpu [--device cuda] [--seconds 5]`.

Checks: the weights of every loop bare and watched, bit for bit; steps that are measured and not traced, where torch
raises if the host waits for the device; a NaN of each precision and kind, found at its layer and line. Costs: pairs of
blocks of steps, bare and watched, in one run; one traced step against a bare one. The tables go to
benchmarks/results/gpu.md. With --device cpu all but the check on waiting runs without a GPU, to try the script.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, when cuBLAS is first called

import torch
import torch.nn.functional as F
from benchmarks.loops import LOOPS, Loop, classify, dense, pictures
from benchmarks.networks import CONTESTS
from benchmarks.readings import calm_rounds, read
from benchmarks.tracing import bare, traced
from benchmarks.twins import race
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.utils._pytree import tree_map

import gradtrace
from gradtrace.monitor.schedule.schedule import Schedule

RESULTS = Path(__file__).parent / "results" / "gpu.md"
STEPS, BLOCK_S, AIM, MARK = 60, 0.25, 1.02, 7.0


def moved(loop: Loop, device: str) -> Loop:
    """The same loop there: models and what is drawn for them."""
    loop.whole.to(device)
    own = loop.draw
    loop.draw = lambda generator: tree_map(lambda t: t.to(device), own(generator))
    return loop


def amp(dtype: torch.dtype, device: str) -> Loop:
    """Autocast; float16 with a scaler of the loss."""
    model = dense(*[512] * 6, 10)
    optimizer, scaler = torch.optim.Adam(model.parameters(), lr=1e-4), GradScaler(device, enabled=dtype == torch.half)

    def body(batch: Any) -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(device, dtype):
            loss = classify(model, batch)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return Loop({"": model}, [optimizer], body, pictures(128, 512))


def loops(device: str) -> dict[str, Callable[[], Loop]]:
    """By name, there; those under autocast are made for the device."""
    plain = {name: own for name, own in LOOPS.items() if "bf16" not in name}
    half = {f"MLP under {d}": partial(amp, getattr(torch, d), device) for d in ("bfloat16", "float16")}
    return {name: partial(there, own, device) for name, own in (plain | half).items()}


def there(own: Callable[[], Loop], device: str) -> Loop:
    """A new one: the same weights and batches every time."""
    torch.manual_seed(0)
    return moved(own(), device)


def weights_differ(build: Callable[[], Loop]) -> str:
    """'' where a watched loop ends with the weights of the bare one, bit for bit."""
    ends = []
    for is_watched in (False, True):
        loop = build()
        with gradtrace.watch(loop.whole, loop.optimizers) if is_watched else contextlib.nullcontext():
            for _ in range(STEPS):
                loop.body(loop.draw(loop.generator))
        ends.append([parameter.detach().cpu() for parameter in loop.whole.parameters()])
    differ = sum(not torch.equal(*pair) for pair in zip(*ends, strict=True))
    return f"{differ} of {len(ends[0])} weights differ" if differ else ""


@contextlib.contextmanager
def nobody_waits(is_cuda: bool) -> Iterator[None]:
    """Torch raises where the host waits for the device."""
    if not is_cuda:
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def waits(build: Callable[[], Loop], device: str) -> str:
    """'' where no step that is measured and not traced waits for the device; faults of the watch are its notes."""
    loop = build()
    batches = [loop.draw(loop.generator) for _ in range(STEPS)]
    try:
        with (
            patch.object(Schedule, "wants_trace", lambda self, step, *, is_urgent: False),
            gradtrace.watch(loop.whole, loop.optimizers, budget=10.0) as watch,
        ):
            loop.body(batches[0])  # memory that is allocated once
            with nobody_waits(device == "cuda"):
                for batch in batches[1:]:
                    loop.body(batch)
        return "; ".join(watch.run.notes)
    except RuntimeError as error:
        return str(error).splitlines()[0]


class Spoilt(nn.Module):
    """Takes the logarithm, or what else makes no number, of its middle layer where the batch is marked."""

    def __init__(self, spoil: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 10)
        self.spoil = spoil

    def forward(self, x: Tensor) -> Tensor:
        h = self.middle(F.relu(self.first(x)))
        out: Tensor = self.last(self.spoil(h) if bool(x[0, 0] == MARK) else h)
        return out


BIRTHS: dict[str, Callable[[Tensor], Tensor]] = {
    "log": lambda h: (h * 0.0).log(),
    "sqrt": lambda h: h + (h * 0.0).square().sum().sqrt(),
    "division": lambda h: h / (h * 0.0),
    "exp": lambda h: (h.float() + 1e4).exp(),
}


def misplaced(spoil: Callable[[Tensor], Tensor], dtype: torch.dtype, device: str) -> str:
    """'' where a NaN is found at its step, in its layer and at a line of this file."""
    torch.manual_seed(0)
    model = Spoilt(spoil).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for step in range(STEPS):
            optimizer.zero_grad()
            x = torch.randn(16, 32, device=device)
            x[0, 0] = MARK if step == STEPS // 2 else 0.0
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                output = model(x)
                loss = F.cross_entropy(output.float(), torch.arange(16, device=device) % 10)
            loss.backward()
            optimizer.step()
    found = watch.diagnosis.findings
    if not found or found[0].step != STEPS // 2:
        return f"told: {[(f.symptom.value, f.step) for f in found[:1]]}"
    return "" if "gpu.py:" in found[0].source else f"told: {found[0].source or 'no line'} in {found[0].where}"


def traced_over_bare(name: str, device: str) -> float:
    """Median ratio of the pairs of one of the contests, moved there."""
    torch.manual_seed(0)
    model, loss_fn, batch = CONTESTS[name].make()
    job = model.to(device), loss_fn, tree_map(lambda t: t.to(device), batch)
    pairs = []
    for _ in range(CONTESTS[name].pairs + 1):
        times = []
        for step in (bare, traced):
            _wait(device)
            begun = time.perf_counter()
            step(job)
            _wait(device)
            times.append(time.perf_counter() - begun)
        pairs.append(times[1] / times[0])
    return median(pairs[1:])


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def checked(builds: dict[str, Callable[[], Loop]], device: str) -> Table:
    """One line for each check; empty cells are well."""
    table = Table(title=f"Checks on {device}, torch {torch.__version__}", title_justify="left")
    for heading in ("of", "weights, bit for bit", "host waits"):
        table.add_column(heading)
    for name, build in builds.items():
        table.add_row(name, weights_differ(build) or "same", waits(build, device) or "never")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for name, spoil in BIRTHS.items():
            place = misplaced(spoil, dtype, device) or "found"
            table.add_row(f"NaN by {name}, {str(dtype).removeprefix('torch.')}", "", place)
    return table


def costs(builds: dict[str, Callable[[], Loop]], seconds: float, device: str) -> Table:
    """Watched over bare, and traced over bare; each step of a loop ends with its loss on the host."""
    table = Table(title=f"Costs on {device}", title_justify="left")
    for heading in ("of", "over bare", "aim"):
        table.add_column(heading)
    LOOPS.update(builds)
    for name in builds:
        turns = race(name, ["bare", "watch, in memory"], seconds, BLOCK_S)
        found = read(turns["watch, in memory"], turns["bare"], calm_rounds(list(turns.values())))
        table.add_row(f"watch: {name}", str(found.wall), f"{AIM:.2f}")
    for name in ("100 residual blocks of width 1024", "12-layer transformer of width 256", "ResNet-like CNN"):
        table.add_row(f"one traced step: {name}", f"{traced_over_bare(name, device):.2f}", f"{CONTESTS[name].aim:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=5.0, help="of bare steps, for each twin (%(default)s)")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --device cpu tries the script without one")
    torch.use_deterministic_algorithms(True, warn_only=True)
    builds = loops(options.device)
    console = Console(width=140, record=True)
    console.print(checked(builds, options.device))
    torch.use_deterministic_algorithms(False)
    console.print(costs(builds, options.seconds, options.device))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(f"```text\n{console.export_text()}```\n", encoding="utf-8")


if __name__ == "__main__":
    main()
