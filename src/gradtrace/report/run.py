"""A run in the terminal: its picture and findings, a list of runs, and two runs side by side."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from gradtrace.measure.names import Names
from gradtrace.records.run import EventKind, Scalar, Series
from gradtrace.report.live import draw_picture
from gradtrace.report.summary import facts, last
from gradtrace.report.terminal import show_findings, show_formats
from gradtrace.report.words import ascii_text, clean, clipping_told, padded, short, wrapped

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gradtrace.records.run import Run
    from gradtrace.records.trace import Trace

_MAP_LINES = 18
_MOST_LAYERS = 12
_MOST_NOTES = 12
_LABEL = 22
"""Cells of a row's name where runs stand side by side."""
_STATE = 38
"""Cells of what follows the name of a run's file, the state left out."""


def show_run(run: Run, console: Console | None = None, trace: Trace | None = None) -> None:
    """Print loss, gradient by depth and step, the findings, and what half precision would lose of a `trace` of it."""
    console = console or Console()
    looks = {"ascii_only": console.options.ascii_only,
             "in_colour": console.color_system is not None and not console.no_color}  # fmt: skip
    for part in wrapped(" · ".join(f"{name.lower()} {value}" for name, value in facts(run)), console.width):
        console.print(
            ascii_text(part.replace("·", "-")) if console.options.ascii_only else part, highlight=False, markup=False
        )
    for line in draw_picture(run, console.width, _MAP_LINES, **looks):
        line.rstrip()
        console.print(line, soft_wrap=True)
    console.print()
    show_findings(run.findings, console, Names() if trace is None else Names(trace))
    if clipped := clipping_told(run.steps.clipping):
        console.print(f"{clipped[0].upper()}{clipped[1:]}.", highlight=False)
    if not run.findings:
        console.print("No finding." if run.finished else "No finding so far.")
    if trace is not None:
        show_formats(trace, console)
    notes = run.notes[:_MOST_NOTES]
    if len(run.notes) > len(notes):
        notes += (f"and {len(run.notes) - len(notes):,} more notes",)
    for note in notes:
        line = Text(f"note: {clean(note)}", "dim")
        console.print(Text(ascii_text(line.plain), "dim") if console.options.ascii_only else line)


def list_runs(found: Sequence[tuple[Path, Run]], width: int = 120) -> str:
    """One line a run: file, when, steps, last loss, state and findings."""
    states = [_state(run) for _, run in found]
    longest = max(cell_len(str(path)) for path, _ in found) if found else 4
    name = max(min(longest, width - _STATE - max(map(len, states), default=0) - 3), 12)
    lines = [f"{padded('file', name)} {'begun':<16} {'steps':>9} {'loss':>10}  state"]
    for (path, run), state in zip(found, states, strict=True):
        begun = _when(run.header.started)
        lines.append(
            f"{padded(clean(str(path)), name)} {begun:<16} {run.steps.num_steps:>9} "
            f"{last(run, Scalar.LOSS):>10}  {state}"
        )
    return "\n".join(lines)


def _when(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):  # a file may say anything
        return "-"


def _state(run: Run) -> str:
    state = "finished" if run.finished else "not finished"
    return f"{state}, {len(run.findings)} finding{'s' if len(run.findings) > 1 else ''}" if run.findings else state


def compare(runs: Sequence[tuple[str, Run]], width: int = 120) -> str:
    """Runs side by side; of two, also the layers whose gradients differ most."""
    names, found = [clean(name) for name, _ in runs], [run for _, run in runs]
    rows: list[tuple[str, ...]] = [("", *names), ("steps", *(f"{run.steps.num_steps}" for run in found))]
    for scalar in (Scalar.LOSS, Scalar.GRADIENT_NORM, Scalar.LEARNING_RATE):
        rows.append((f"last {scalar.value.replace('_', ' ')}", *(last(run, scalar) for run in found)))
    rows.append(("smallest loss", *map(_smallest, found)))
    skipped = [sum(event.kind is EventKind.SKIPPED for event in run.events) for run in found]
    rows.append(("steps left out", *map(str, skipped)))
    rows.append(("findings", *(str(len(run.findings)) for run in found)))
    cell = max(10, min(26, (width - _LABEL) // len(runs) - 1))
    lines = [f"{label:<{_LABEL}} {' '.join(padded(one, cell, right=True) for one in cells)}" for label, *cells in rows]
    for name, run in zip(names, found, strict=True):
        for finding in run.findings:
            symptom = finding.symptom.value.replace("_", " ")
            lines += ["", *wrapped(f"{name}: {finding.severity.value.upper()} {symptom}: {clean(finding.message)}",
                                   width, "  ")]  # fmt: skip
    return "\n".join([*lines, "", *_differences(found[0], found[1], width)] if len(found) == 2 else lines)


def _differences(a: Run, b: Run, width: int) -> list[str]:
    """Of the parameters that both have: decades between the median gradient norms, the largest first."""
    medians = [_medians(run) for run in (a, b)]
    common = [name for name in medians[0] if name in medians[1]]
    apart = sorted(((medians[1][n] - medians[0][n], n) for n in common), key=lambda pair: -abs(pair[0]))
    apart = [pair for pair in apart if abs(pair[0]) >= 0.1][:_MOST_LAYERS]
    if not apart:
        return wrapped(
            "The gradients of all layers that both have agree within 0.1 decades (medians over the run).", width
        )
    head = "Gradient norms that differ most, in decades (second over first, medians over the run):"
    return [*wrapped(head, width), *(f"  {decades:+6.2f}  {clean(name)}" for decades, name in apart)]


def _medians(run: Run) -> dict[str, float]:
    _, high = run.steps.series(Series.GRADIENT_NORM)
    found = {}
    for column, parameter in enumerate(run.header.parameters):
        values = high[:, column] if len(high) else np.empty(0)
        values = values[np.isfinite(values) & (values > 0)]
        if values.size:
            found[parameter.name] = float(np.median(np.log10(values)))
    return found


def _smallest(run: Run) -> str:
    low, _ = run.steps.scalar(Scalar.LOSS)
    known = low[np.isfinite(low)]
    return short(float(known.min())) if known.size else "-"
