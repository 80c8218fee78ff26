"""A run in the terminal: its picture and findings, a list of runs, and two runs side by side."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from gradtrace.records.finding import Diagnosis
from gradtrace.records.run import EventKind, Scalar, Series
from gradtrace.report.live import draw_live
from gradtrace.report.terminal import show, show_formats
from gradtrace.report.words import clean, short, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gradtrace.records.run import Run
    from gradtrace.records.trace import Trace

_HEIGHT = 24
_MOST_LAYERS = 12


def show_run(run: Run, console: Console | None = None, trace: Trace | None = None) -> None:
    """Print loss, gradient by depth and step, the findings, and what half precision would lose of a `trace` of it."""
    console = console or Console()
    for line in draw_live(run, console.width, _HEIGHT, ascii_only=console.options.ascii_only):
        console.print(line, soft_wrap=True)
    if run.findings:
        show(Diagnosis(run.findings, title=run.header.title), console)
    else:
        console.print("No finding." if run.finished else "No finding so far.")
    if trace is not None:
        show_formats(trace, console)
    for note in run.notes:
        console.print(f"not seen: {clean(note)}", style="dim", markup=False)


def list_runs(found: Sequence[tuple[Path, Run]]) -> str:
    """One line a run: file, when, steps, last loss, state and findings."""
    lines = [f"{'file':<40} {'begun':<16} {'steps':>9} {'loss':>10}  state"]
    for path, run in found:
        begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.header.started))
        state = "finished" if run.finished else "running or ended early"
        told = f", {len(run.findings)} findings" if len(run.findings) > 1 else ", 1 finding" if run.findings else ""
        lines.append(
            f"{shorten(str(path), 40):<40} {begun:<16} {int(run.steps.count.sum()):>9} {_last(run, Scalar.LOSS):>10}  "
            f"{state}{told}"
        )
    return "\n".join(lines)


def compare(runs: Sequence[tuple[str, Run]]) -> str:
    """Two runs side by side, then the layers whose gradients differ most."""
    (name_a, a), (name_b, b) = runs
    rows: list[tuple[str, ...]] = [("", name_a, name_b)]
    rows.append(("steps", *(str(int(run.steps.count.sum())) for run in (a, b))))
    for scalar in (Scalar.LOSS, Scalar.GRADIENT_NORM, Scalar.LEARNING_RATE):
        rows.append((f"last {scalar.value.replace('_', ' ')}", _last(a, scalar), _last(b, scalar)))
    rows.append(("smallest loss", *(_smallest(run) for run in (a, b))))
    skipped = [sum(event.kind is EventKind.SKIPPED for event in run.events) for run in (a, b)]
    rows.append(("steps left out", *map(str, skipped)))
    rows.append(("findings", *(str(len(run.findings)) for run in (a, b))))
    lines = [f"{label:<22} {shorten(x, 26):>26} {shorten(y, 26):>26}" for label, x, y in rows]
    for name, run in runs:
        lines += [f"{name}: {finding.severity.value} {clean(finding.message)}" for finding in run.findings]
    return "\n".join([*lines, *_differences(a, b)])


def _differences(a: Run, b: Run) -> list[str]:
    """Of the parameters that both have: decades between the median gradient norms, the largest first."""
    medians = [_medians(run) for run in (a, b)]
    common = [name for name in medians[0] if name in medians[1]]
    apart = sorted(((medians[1][n] - medians[0][n], n) for n in common), key=lambda pair: -abs(pair[0]))
    apart = [pair for pair in apart if abs(pair[0]) >= 0.1][:_MOST_LAYERS]
    if not apart:
        return ["The gradients of all layers that both have agree within 0.1 decades (medians over the run)."]
    head = "Gradient norms that differ most, in decades (second over first, medians over the run):"
    return [head, *(f"  {decades:+6.2f}  {clean(name)}" for decades, name in apart)]


def _medians(run: Run) -> dict[str, float]:
    _, high = run.steps.series(Series.GRADIENT_NORM)
    found = {}
    for column, parameter in enumerate(run.header.parameters):
        values = high[:, column] if len(high) else np.empty(0)
        values = values[np.isfinite(values) & (values > 0)]
        if values.size:
            found[parameter.name] = float(np.median(np.log10(values)))
    return found


def _last(run: Run, name: Scalar) -> str:
    _, high = run.steps.scalar(name)
    known = high[~np.isnan(high)]
    return short(float(known[-1])) if known.size else "-"


def _smallest(run: Run) -> str:
    low, _ = run.steps.scalar(Scalar.LOSS)
    known = low[np.isfinite(low)]
    return short(float(known.min())) if known.size else "-"
