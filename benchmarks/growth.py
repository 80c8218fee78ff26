"""Does a watch grow with the number of steps? `python -m benchmarks.growth [--steps 20000]`.

A small model under watch, into a file, in a process of its own: resident memory, Python objects and the file's bytes
after so many steps. What may grow is the run's history in memory, by a rung of rows for every doubling of the steps.
"""

from __future__ import annotations

import argparse
import gc
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from benchmarks.loops import tiny
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import gradtrace

SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
HEADINGS = ("steps", "resident [MB]", "Python objects", "tensors", "rows in memory", "rows in the file", "file [MB]")


def resident_mb() -> float:
    """Of this process, now."""
    line = next(text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def census(step: int, watch: gradtrace.monitor.watch.Watch | None, path: Path) -> list[str]:
    """One line of the table."""
    gc.collect()
    objects = gc.get_objects()
    num_tensors = sum(issubclass(type(one), torch.Tensor) for one in objects)
    cells = [f"{step}", f"{resident_mb():.1f}", f"{len(objects)}", f"{num_tensors}"]
    if watch is None:
        return [*cells, "", "", ""]
    with sqlite3.connect(path) as connection:
        (num_rows,) = connection.execute("SELECT count(*) FROM rows").fetchone()
    in_memory = len(watch.run.steps.first)
    size = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
    return [*cells, f"{in_memory}", f"{num_rows}", f"{size / 1e6:.2f}"]


def grow(num_steps: int, *, watched: bool) -> list[list[str]]:
    """The table's lines, as the training goes on."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    loop, found = tiny(), list[list[str]]()
    stops = {round(num_steps * share) for share in SHARES}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.db"
        watch = gradtrace.watch(loop.models, loop.optimizers, path=path).start() if watched else None
        for step in range(1, num_steps + 1):
            loop.step()
            if step in stops:
                found.append(census(step, watch, path))
        if watch is not None:
            watch.close()
    return found


def table(num_steps: int, *, watched: bool) -> Table:
    """Measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.growth", "--steps", str(num_steps), "--child", str(int(watched))]
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    result = Table(title="under watch, into a file" if watched else "bare", title_justify="left")
    for name in HEADINGS:
        result.add_column(escape(name), justify="right")
    for line in text.splitlines():
        result.add_row(*line.split("\t"))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print("\n".join("\t".join(cells) for cells in grow(options.steps, watched=bool(options.child))))
        return
    console = Console()
    for watched in (False, True):
        with console.status("counting"):
            result = table(options.steps, watched=watched)
        console.print(result)


if __name__ == "__main__":
    main()
