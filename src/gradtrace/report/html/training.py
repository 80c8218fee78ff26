"""The sixth question: what happened during the run? Loss, gradient by depth and step, update ratios, events."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from gradtrace.records.run import EventKind, Run, Scalar, Series
from gradtrace.records.shown import counted
from gradtrace.report.html.activations import spread
from gradtrace.report.html.pooling import edges, pooled, run_map
from gradtrace.report.html.section import Plot, Section, Table
from gradtrace.report.summary import loss_told
from gradtrace.report.words import clean, clipping_told, short

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_COLUMNS = 1000
"""Steps side by side; more are pooled."""
MOST_ROWS = 1000
"""Parameters below each other; more are pooled."""
MOST_CELLS = 500_000
"""Of a map: 0.7 MB in the file for each of its two halves."""
PICTURES = {
    "Loss": (Scalar.LOSS,),
    "Gradient norm": (Scalar.GRADIENT_NORM, Scalar.CLIPPED_NORM),
    "Learning rate": (Scalar.LEARNING_RATE,),
}
"""Title -> what is drawn; the other scalars are told under the pointer of the first."""
LOW_PICTURES = ("Learning rate", "Steps a second")
"""Half as high."""
WORDS = {
    Scalar.LOSS: "loss",
    Scalar.GRADIENT_NORM: "gradient norm",
    Scalar.CLIPPED_NORM: "after clipping",
    Scalar.LEARNING_RATE: "learning rate",
    Scalar.LOSS_SCALE: "loss scale",
}
MAPS = {
    Series.GRADIENT_NORM: ("Gradient norm by depth and step", "gradient"),
    Series.UPDATE_RATIO: ("Update by depth and step: |change of W| / |W|", "update"),
}
MOST_EVENTS = 500
TABLE_ROWS = 200


def training(run: Run) -> Section | None:
    """The run step by step; None where no step was watched."""
    num_rows = len(run.steps.first)
    if not num_rows:
        return None
    matrices = [i for i, parameter in enumerate(run.header.parameters) if len(parameter.shape) > 1]
    chosen = np.array(matrices or range(len(run.header.parameters)), dtype=np.int64)
    groups = edges(num_rows, MOST_COLUMNS)
    plots = _scalars(run, groups)
    for series, (title, key) in MAPS.items():
        if not np.isnan(run.steps.series(series)[1][:, chosen]).all():
            plots.append(_map(run, series, title, chosen, key))
    return Section("run", "What happened during the run", _answer(run), tuple(plots), _notes(run))


def _answer(run: Run) -> str:
    told = [counted(run.steps.num_steps, "step")]
    if loss := loss_told(run):
        told.append(f"loss from {loss}")
    skipped = sum(event.kind is EventKind.SKIPPED for event in run.events)
    nonfinite = int(run.steps.nonfinite.sum())
    if clipped := clipping_told(run.steps.clipping):
        told.append(clipped)
    if skipped:
        told.append(f"optimizer steps skipped: {skipped:,}")
    if nonfinite:
        rested = int(run.steps.count.sum()) < run.steps.num_steps
        told.append(f"{'measured ' if rested else ''}steps with a NaN or Inf: {nonfinite:,}")
    return "; ".join(told) + ("." if run.finished else ". The run is not finished, or was killed.")


def _notes(run: Run) -> tuple[str, ...]:
    if (run.steps.count > 1).any():
        return ("Old steps are pooled: of several steps the smallest and the largest value are kept.",)
    return ()


def _scalars(run: Run, groups: NDArray[np.int64]) -> list[Plot]:
    """The loss, and the norm of all gradients."""
    known = [name for name in WORDS if not np.isnan(run.steps.scalar(name)[1]).all()]
    if run.steps.clipping is None and Scalar.CLIPPED_NORM in known:
        known.remove(Scalar.CLIPPED_NORM)  # the same line as the norm's, and over it
    lines = {name: _line(run, name, groups) for name in known}
    drawn = [name for names in PICTURES.values() for name in names]
    plots: list[Plot] = []
    broken = broken_stretches(run)
    for title, names in PICTURES.items():
        if not any(name in lines for name in names):
            continue
        data = {
            "first": run.steps.first[groups[:-1]].tolist(),
            "last": (run.steps.first + run.steps.count - 1)[groups[1:] - 1].tolist(),
            "lines": [lines[name] for name in names if name in lines],
            "told": [] if plots else [line for name, line in lines.items() if name not in drawn],
            "linear": any(np.nanmin(run.steps.scalar(name)[0]) <= 0 for name in names if name in lines),
            "low": title in LOW_PICTURES,
            "broken": broken,
            "events": [[event.step, event.kind.value, event.message] for event in _events(run)],
            "onsets": [[f.step, f.symptom.value.replace("_", " ")] for f in run.findings if f.step is not None],
            "controls": not plots,
        }
        reading = (
            "Drag across a picture to zoom into a stretch of steps; all pictures of the run follow. The marks on top "
            "are events: hover or focus them. What is shaded was not finite. A click on a name hides its line."
        )
        plots.append(Plot(f"scalars{len(plots)}", "steps", title, "" if plots else reading, data, _steps_table(run)))
    if (speed := _speed(run, groups)) is not None:
        plots.append(speed)
    return plots


def _speed(run: Run, groups: NDArray[np.int64]) -> Plot | None:
    """Steps a second, from the times of the rows; None where time stood still."""
    ends = groups[1:] - 1
    last, times = (run.steps.first + run.steps.count - 1)[ends], run.steps.time_s[ends]
    passed = np.diff(times)
    if not len(passed) or not (passed > 0).all():
        return None
    rate = [math.nan, *(np.diff(last) / passed).tolist()]
    data = {
        "first": run.steps.first[groups[:-1]].tolist(),
        "last": last.tolist(),
        "lines": [{"name": "steps a second", "low": rate, "high": rate}],
        "told": [],
        "linear": False,
        "low": True,
        "broken": [],
        "events": [],
        "onsets": [],
        "controls": False,
    }
    picked = spread(len(rate), TABLE_ROWS)
    table = Table(("step", "steps a second"), tuple((str(int(last[i])), short(rate[i])) for i in picked))
    return Plot("speed", "steps", "Steps a second", "", data, table)


def broken_stretches(run: Run) -> list[list[int]]:
    """[first step, last step] of the rows that hold a NaN or Inf, neighbours joined."""
    found: list[list[int]] = []
    for row in np.flatnonzero(run.steps.nonfinite):
        first, last = int(run.steps.first[row]), int(run.steps.first[row] + run.steps.count[row]) - 1
        if found and first <= found[-1][1] + 1:
            found[-1][1] = last
        else:
            found.append([first, last])
    return found


def _line(run: Run, name: Scalar, groups: NDArray[np.int64]) -> dict[str, Any]:
    low, high = run.steps.scalar(name)
    one = np.array([0, 1])
    return {
        "name": WORDS[name],
        "low": pooled(low[None], one, groups, largest=False)[0].tolist(),
        "high": pooled(high[None], one, groups, largest=True)[0].tolist(),
    }


def _events(run: Run) -> list[Any]:
    """The events worth a mark, at most so many: samples are taken again and again and go first."""
    events = sorted(run.events, key=lambda event: event.kind is EventKind.SAMPLE)[:MOST_EVENTS]
    return sorted(events, key=lambda event: event.step)


def _steps_table(run: Run) -> Table:
    rows = []
    for i in spread(len(run.steps.first), TABLE_ROWS):
        first, count = int(run.steps.first[i]), int(run.steps.count[i])
        steps = str(first) if count == 1 else f"{first} to {first + count - 1}"
        cells = [_range(float(low[i]), float(high[i])) for low, high in (run.steps.scalar(name) for name in Scalar)]
        rows.append((steps, *cells, str(int(run.steps.nonfinite[i]) or "")))
    heads = (scalar.value.replace("_", " ") for scalar in Scalar)
    return Table(("step", *heads, "not finite"), tuple(rows))


def _range(low: float, high: float) -> str:
    if math.isnan(low) and math.isnan(high):
        return ""
    return short(high) if low == high or math.isnan(low) else f"{short(low)} to {short(high)}"


def _map(run: Run, series: Series, title: str, chosen: NDArray[np.int64], key: str) -> Plot:
    """Parameters from the input (top) to the loss (bottom), as they were registered; pooled by max and by min."""
    low, high = (half[:, chosen].T for half in run.steps.series(series))
    seen = np.flatnonzero(~np.isnan(high).all(axis=0))  # of a step without a number the one before it is shown
    low, high, first = low[:, seen], high[:, seen], run.steps.first[seen]
    last = np.append(first[1:] - 1, run.steps.first[-1] + run.steps.count[-1] - 1)
    rows = edges(len(chosen), MOST_ROWS)
    columns = edges(low.shape[1], max(1, min(MOST_COLUMNS, MOST_CELLS // (len(rows) - 1))))
    largest, smallest = pooled(high, rows, columns, largest=True), pooled(low, rows, columns, largest=False)
    names = [clean(run.header.parameters[i].name) for i in chosen]
    told = [names[a] if b - a == 1 else f"{names[a]} … {names[b - 1]}" for a, b in pairwise(rows)]
    events = sorted({event.step for event in run.events if event.kind is not EventKind.SAMPLE})
    label = series.value.replace("_", " ")
    data = run_map(label, told, first[columns[:-1]], last[columns[1:] - 1], largest, smallest, events)
    reading = (
        "A row is a weight, the first layers on top; a column is a step, or a few pooled. The largest of each pool "
        "shows spikes, the smallest shows dips."
    )
    if len(seen) < len(run.steps.first):
        reading += f" It was measured at {len(seen):,} of {len(run.steps.first):,} steps and is drawn up to the next."
    return Plot(key, "runmap", title, reading, data, _map_table(names, low, high))


def _map_table(names: list[str], low: NDArray[Any], high: NDArray[Any]) -> Table:
    """Per parameter: at the first and last step, and the extremes with infinities."""
    with np.errstate(invalid="ignore"):
        least, most = np.fmin.reduce(low, axis=1), np.fmax.reduce(high, axis=1)
    rows = []
    for i in spread(len(names), 5 * TABLE_ROWS):
        numbers = (high[i, 0], high[i, -1], least[i], most[i])
        rows.append((names[i], *(short(float(number)) for number in numbers)))
    return Table(("parameter", "first", "last", "smallest", "largest"), tuple(rows))
