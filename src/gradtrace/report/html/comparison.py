"""How do several runs differ? One page: their curves over each other, their ends beside each other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradtrace.errors import InputError
from gradtrace.records.run import Scalar, Series
from gradtrace.report.html.page import page
from gradtrace.report.html.pooling import edges, pooled
from gradtrace.report.html.provenance import Provenance
from gradtrace.report.html.section import Plot, Section, Table
from gradtrace.report.html.training import WORDS, broken_stretches
from gradtrace.report.html.verdict import Verdict
from gradtrace.report.summary import at_end, last, loss_told, speed
from gradtrace.report.words import clean, short
from gradtrace.runs.reader import list_runs, read_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.run import Run

MOST_RUNS = 12
"""On one page; more lines cannot be told apart."""
MOST_COLUMNS = 600
"""Steps of each line; more are pooled."""
PICTURES = (Scalar.LOSS, Scalar.GRADIENT_NORM, Scalar.LEARNING_RATE)
MOST_LAYERS = 200
MOST_NOTES = 6

Named = tuple[str, "Run"]


def read_runs(paths: Sequence[Path]) -> list[Named]:
    """(name, run) of files of runs, or of all in a folder, the newest first.

    Raises:
        TraceFileError: one of them is no run.
        InputError: there are fewer than two.
    """
    files = [file for path in paths for file in (list_runs(path) if path.is_dir() else [path])]
    if len(files) < 2:
        raise InputError(f"two runs or more are compared, but {len(files)} came")
    names = _names(files[:MOST_RUNS])
    return [(name, read_run(file)) for name, file in zip(names, files[:MOST_RUNS], strict=True)]


def _names(files: Sequence[Path]) -> list[str]:
    """Of each file, as much of its path as tells it apart."""
    short_names = [file.stem for file in files]
    return short_names if len(set(short_names)) == len(files) else [str(file) for file in files]


def render_runs(runs: Sequence[Named], *, live: bool = False) -> str:
    """The page of two to N runs as text."""
    steps = sum(run.steps.num_steps for _, run in runs)
    ill = sum(bool(run.findings) for _, run in runs)
    top = Verdict(
        kind="info" if not ill else "warning",
        sentence=f"{len(runs)} runs side by side.",
        detail=_best(runs),
        facts=(("Runs", str(len(runs))), ("Steps seen", f"{steps:,}"), ("Runs with findings", str(ill))),
        cards=(),
    )
    notes = tuple(clean(f"{name}: {note}") for name, run in runs for note in run.notes[:MOST_NOTES])
    return page("comparison", top, _sections(runs), Provenance((), notes, (), (), "", (), ()), live=live)


def _best(runs: Sequence[Named]) -> str:
    """The run that ends with the smallest loss."""
    ends = [(end[1], name) for name, run in runs if (end := at_end(run, Scalar.LOSS)) is not None]
    finite = [pair for pair in ends if math.isfinite(pair[0])]
    if not finite:
        return "None of them ends with a loss that is a finite number."
    value, name = min(finite)
    return f"The smallest loss at the end is that of {clean(name)}: {short(value)}."


def _sections(runs: Sequence[Named]) -> tuple[Section, ...]:
    plots = [plot for name in PICTURES if (plot := _overlaid(runs, name)) is not None]
    layers = Plot("layers", "none", "Layers", "", {}, _layer_table(runs))
    found = [Section("run", "How they went", "", tuple(plots)), _ends(runs)]
    if layers.table.rows:
        told = "Median gradient norm of each parameter that all of them have."
        found.append(Section("parameters", "Where their gradients differ", told, (layers,)))
    return tuple(found)


def _ends(runs: Sequence[Named]) -> Section:
    rows = []
    for name, run in runs:
        findings = "; ".join(f"{f.severity.value} {f.symptom.value.replace('_', ' ')}" for f in run.findings)
        state = "finished" if run.finished else "not finished"
        numbers = (f"{run.steps.num_steps:,}", loss_told(run) or "-", last(run, Scalar.GRADIENT_NORM), speed(run))
        rows.append((clean(name), *numbers, state, findings or "none"))
    columns = ("run", "steps", "loss, first to last", "gradient norm", "steps a second", "state", "findings")
    plot = Plot("ends", "none", "Ends", "", {}, Table(columns, tuple(rows)))
    return Section("findings", "How they ended", "", (plot,))


def _overlaid(runs: Sequence[Named], name: Scalar) -> Plot | None:
    lines, rows = [], []
    for run_name, run in runs:
        high = run.steps.scalar(name)[1]
        if not len(high) or np.isnan(high).all():
            continue
        groups = edges(len(high), MOST_COLUMNS)
        values = pooled(high[None], np.array([0, 1]), groups, largest=True)[0]
        steps = (run.steps.first + run.steps.count - 1)[groups[1:] - 1]
        lines.append({"name": clean(run_name), "steps": steps.tolist(), "values": values.tolist(),
                      "broken": broken_stretches(run)})  # fmt: skip
        known = values[np.isfinite(values)]
        least, most = (short(float(x)) for x in (known.min(), known.max())) if len(known) else ("-", "-")
        rows.append((clean(run_name), least, most, last(run, name)))
    if not lines:
        return None
    numbers = [value for line in lines for value in line["values"] if math.isfinite(value)]
    data: dict[str, Any] = {"label": WORDS[name], "lines": lines, "linear": not numbers or min(numbers) <= 0,
                            "ends": name is not Scalar.LEARNING_RATE}  # fmt: skip
    title = WORDS[name].capitalize()
    table = Table(("run", "smallest", "largest", "last"), tuple(rows))
    return Plot(name.value, "overlay", title, "A click on a name hides its line.", data, table)


def _layer_table(runs: Sequence[Named]) -> Table:
    """A row per parameter, a column per run; those that differ most come first."""
    medians = [_medians(run) for _, run in runs]
    common = [name for name in medians[0] if all(name in other for other in medians[1:])]

    def apart(name: str) -> float:
        logs = [math.log10(each[name]) for each in medians]
        return max(logs) - min(logs)

    chosen = sorted(common, key=apart, reverse=True)[:MOST_LAYERS]
    rows = tuple((clean(name), *(short(each[name]) for each in medians), f"{apart(name):.2f}") for name in chosen)
    return Table(("parameter", *(clean(name) for name, _ in runs), "decades apart"), rows)


def _medians(run: Run) -> dict[str, float]:
    high = run.steps.series(Series.GRADIENT_NORM)[1]
    found = {}
    for column, parameter in enumerate(run.header.parameters):
        known = high[:, column][np.isfinite(high[:, column]) & (high[:, column] > 0)]
        if known.size:
            found[parameter.name] = float(np.median(known))
    return found
