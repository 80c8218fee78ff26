"""How large is a run's file, and what does a row cost? `python -m benchmarks.run_file [--steps 100000] [--full]`.

Rows of as many parameters go through the writer as a watch sends them, with spikes planted in single parameters at
single steps: read back, each must be there in its full height, however often its row was pooled. --full is the bound
that is promised: a million steps of a thousand layers stay under 200 MB.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gradtrace.records.run import RunHeader, RunSteps, Series, WatchedParameter
from gradtrace.runs.reader import read_run
from gradtrace.runs.writer import RunWriter

MOST_BYTES = 200e6
FULL_STEPS = 1_000_000
NUM_SPIKES = 100
FLUSH_EVERY_S = 0.01
"""Steps come hundreds of times as fast as in a training: flushed as much more often, so that as many wait as there."""

STEPS_PER_REPORT = 1000


@dataclass(frozen=True, slots=True)
class Spike:
    """In the gradient's norm of one parameter at one step."""

    step: int
    parameter: int
    height: float

    def is_in(self, steps: RunSteps) -> bool:
        """Whether the row that holds its step shows its very height."""
        row = int(np.searchsorted(steps.first, self.step, side="right")) - 1
        return bool(steps.series_high[row, 0, self.parameter] == np.float32(self.height))


def spikes(num_steps: int, num_parameters: int) -> list[Spike]:
    """At random steps, far above all that is ordinary; each in a parameter of its own, so that none hides another."""
    draw = np.random.default_rng(1)
    num_spikes = min(NUM_SPIKES, num_steps, num_parameters)
    at, which = (draw.choice(number, num_spikes, replace=False) for number in (num_steps, num_parameters))
    return [Spike(int(step), int(i), 1e3 + k) for k, (step, i) in enumerate(zip(at, which, strict=True))]


def header(num_parameters: int) -> RunHeader:
    parameters = tuple(WatchedParameter(f"layers.{i}.weight", (8, 8), "float32", 0) for i in range(num_parameters))
    return RunHeader(identity="benchmark", started=0.0, command=(), title="benchmark", parameters=parameters)


def write(path: Path, num_steps: int, num_parameters: int, planted: list[Spike], console: Console) -> tuple[float, int]:
    """Seconds that the writer took, and the most bytes that its files took meanwhile."""
    writer = RunWriter(path, header(num_parameters), flush_every_s=FLUSH_EVERY_S)
    draw, at = np.random.default_rng(0), {spike.step: spike for spike in planted}
    ready = [_ordinary(draw, num_parameters) for _ in range(64)]
    seconds, most = 0.0, 0
    with console.status("") as status:
        for step in range(num_steps):
            series = ready[step % len(ready)]
            if (spike := at.get(step)) is not None:
                series = series.copy()
                series[0, spike.parameter] = spike.height
            begun = time.perf_counter()
            writer.append(step, step * 0.1, [1.0, 1e-3, 1.0, 1.0, np.nan], series, nonfinite=False)
            seconds += time.perf_counter() - begun
            if step % STEPS_PER_REPORT == 0:
                most = max(most, _bytes(path))
                status.update(f"step {step}: {_bytes(path) / 1e6:.0f} MB, {seconds / (step + 1) * 1e6:.0f} us a step")
    begun = time.perf_counter()
    writer.close()
    return seconds + time.perf_counter() - begun, max(most, _bytes(path))


def _ordinary(draw: np.random.Generator, num_parameters: int) -> NDArray[np.float32]:
    return np.exp(draw.standard_normal((len(Series), num_parameters))).astype(np.float32)


def _bytes(path: Path) -> int:
    """Of the file, with its write-ahead log."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def table(num_steps: int, num_parameters: int, console: Console) -> Table:
    result = Table(title=f"A run of {num_steps} steps x {num_parameters} parameters", title_justify="left")
    planted = spikes(num_steps, num_parameters)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.db"
        seconds, most = write(path, num_steps, num_parameters, planted, console)
        size = _bytes(path)
        begun = time.perf_counter()
        steps = read_run(path).steps
        reading = time.perf_counter() - begun
    kept = sum(spike.is_in(steps) for spike in planted)
    cells = {
        "file [MB]": _judged(f"{size / 1e6:.1f}", size < MOST_BYTES),
        "at most, with its log [MB]": _judged(f"{most / 1e6:.1f}", most < MOST_BYTES),
        "rows": f"{len(steps.first)}",
        "steps in a row": f"{steps.count.min()} to {steps.count.max()}",
        "spikes kept": _judged(f"{kept} of {len(planted)}", kept == len(planted)),
        "writing [us a step]": f"{seconds / num_steps * 1e6:.0f}",
        "reading [s]": f"{reading:.2f}",
    }
    for name in cells:
        result.add_column(escape(name), justify="right")
    result.add_row(*cells.values())
    return result


def _judged(text: str, good: bool) -> str:
    return f"[green]{text}[/]" if good else f"[red]{text}[/]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--parameters", type=int, default=1000)
    parser.add_argument("--full", action="store_true", help=f"{FULL_STEPS} steps")
    options = parser.parse_args()
    os.nice(10)
    console = Console()
    console = console if console.is_terminal else Console(width=120)
    console.print(table(FULL_STEPS if options.full else options.steps, options.parameters, console))


if __name__ == "__main__":
    main()
