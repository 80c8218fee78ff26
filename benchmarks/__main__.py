"""What tracing costs: `make bench`. Ratios measured side by side in one run; no test depends on them."""

from __future__ import annotations

import torch
from benchmarks.networks import CONTESTS
from benchmarks.prediction import table as predictions
from benchmarks.recurrence import table as recurrences
from benchmarks.scaling import NUM_BLOCKS, microseconds_per_op
from benchmarks.tracing import memory, time_pairs
from rich.console import Console
from rich.table import Table

MEMORY_AIM = 0.05


def steps(console: Console) -> Table:
    """Traced step against bare step, in time and memory."""
    table = Table(title=f"One traced step against the same step bare (torch {torch.__version__}, CPU, "
                        f"{torch.get_num_threads()} threads)")  # fmt: skip
    for heading in ("network", "bare [ms]", "traced / bare", "aim", "extra peak memory", "aim"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for name, contest in CONTESTS.items():
        with console.status(name):
            seconds, ratio = time_pairs(name)
            extra = memory(name)
        table.add_row(
            name, f"{seconds * 1e3:.0f}", _judged(f"{ratio:.2f}x", ratio <= contest.aim), f"{contest.aim}x",
            _judged(f"{extra:.1%}", extra <= MEMORY_AIM), f"{MEMORY_AIM:.0%}",
        )  # fmt: skip
    return table


def growth(console: Console) -> Table:
    """Cost per op against the number of ops."""
    table = Table(title="Microseconds per op as the network grows (linear: the same in each row)")
    table.add_column("ops", justify="right")
    for num_blocks in NUM_BLOCKS:
        with console.status(f"{num_blocks} blocks"):
            num_ops, costs = microseconds_per_op(num_blocks)
        if not table.rows:
            for stage in costs:
                table.add_column(stage, justify="right")
        table.add_row(f"{num_ops}", *(f"{cost:.1f}" for cost in costs.values()))
    return table


def _judged(text: str, reached: bool) -> str:
    return f"[green]{text}[/]" if reached else f"[red]{text}[/]"


if __name__ == "__main__":
    console = Console()
    microseconds_per_op(2)  # imports
    console.print(steps(console))
    console.print(growth(console))
    with console.status("predictions"):
        text = predictions()
    console.print(text, highlight=False)
    with console.status("through time"):
        text = recurrences()
    console.print(text, highlight=False)
