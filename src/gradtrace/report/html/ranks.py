"""How do the ranks compare? Each against the median of all at the same step: the step's own ups and downs cancel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.records.shown import counted
from gradtrace.report.html.activations import spread
from gradtrace.report.html.entries import entries
from gradtrace.report.html.pooling import edges, pooled, run_map
from gradtrace.report.html.rank_layers import rank_layers
from gradtrace.report.html.section import Plot, Section, Table
from gradtrace.report.words import short

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradtrace.records.run import Run
    from gradtrace.records.run_ranks import RunRanks

MOST_ROWS, MOST_CELLS, MOST_COLUMNS = 1024, 500_000, 1000
"""Ranks below each other, and cells and steps of a map; more are pooled."""

TABLE_ROWS = 200

WORDS = {"loss": "loss", "gradient": "gradient norm before averaging", "forward_s": "time to its loss"}
"""What each rank says of itself; seconds from the end of its last step."""


def ranks(run: Run) -> Section | None:
    """Rank by step; None where one process trained alone, or too many."""
    said = run.ranks
    if said is None or not len(said.steps):
        return None
    maps = {name: _beside_median(getattr(said, name), said) for name in WORDS}
    maps = {name: values for name, values in maps.items() if not np.isnan(values).all()}
    plots = tuple(_map(run, said, name, values, is_first=not i) for i, (name, values) in enumerate(maps.items()))
    plots += tuple(plot for plot in (rank_layers(run), entries(run)) if plot is not None)
    return Section("ranks", "How the ranks compare", _answer(said, maps), plots, _notes(run)) if plots else None


def _beside_median(values: NDArray[np.float64], said: RunRanks) -> NDArray[np.float64]:
    """[reports, ranks]: times the median; infinite where something was not finite; NaN: no two to compare."""
    known = np.where(np.isfinite(values) & (values > 0.0), values, np.nan)
    found = np.full_like(values, np.nan)
    several = (~np.isnan(known)).sum(axis=1) > 1
    found[several] = known[several] / np.nanmedian(known[several], axis=1, keepdims=True)
    return np.where(said.nonfinite & ~np.isfinite(values), np.inf, found)


def _answer(said: RunRanks, maps: dict[str, NDArray[np.float64]]) -> str:
    """Which rank is the furthest from the others, by the median over steps; no judgement."""
    told = []
    for name, values in maps.items():
        usual = np.array([_median(values[:, rank]) for rank in range(values.shape[1])])
        if np.isnan(usual).all():
            continue
        rank = int(np.nanargmax(np.abs(np.log(usual))))
        told.append(f"{WORDS[name]}: rank {rank}, {short(float(usual[rank]))} times")
    beside = f" Furthest from the median of all: {'; '.join(told)}." if told else ""
    return f"{counted(said.loss.shape[1], 'rank')}, at {counted(len(said.steps), 'step')} that all reported.{beside}"


def _median(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else math.nan


def _notes(run: Run) -> tuple[str, ...]:
    """What was told of ranks while it trained."""
    return tuple(note for note in run.notes if "rank" in note)


def _map(run: Run, said: RunRanks, name: str, values: NDArray[np.float64], *, is_first: bool) -> Plot:
    rows = edges(values.shape[1], MOST_ROWS)
    columns = edges(len(values), max(1, min(MOST_COLUMNS, MOST_CELLS // (len(rows) - 1))))
    largest, smallest = (pooled(values.T, rows, columns, largest=side) for side in (True, False))
    first = said.steps[columns[:-1]]
    end = int(run.steps.first[-1] + run.steps.count[-1] - 1)
    names = [f"rank {rank}" for rank in rows[:-1].tolist()]
    last = np.append(first[1:] - 1, max(end, int(said.steps[-1])))
    data = run_map(f"{WORDS[name]}, times the ranks' median", names, first, last, largest, smallest)
    reading = (
        "A row is a rank; a column is a step that all ranks reported, drawn up to the next. A colour is the rank's "
        "number over the median of all at that step: a row of its own colour is a rank that is not like the others."
        + (" Red is what was not finite." if said.nonfinite.any() else "")
    )
    title = f"{WORDS[name].capitalize()} by rank and step, times the median of all"
    return Plot(
        f"rank{name.replace('_', '')}", "runmap", title, reading if is_first else "", data, _table(said, name, values)
    )


def _table(said: RunRanks, name: str, values: NDArray[np.float64]) -> Table:
    """Per rank: medians over steps, and how often it was not finite."""
    own, rows = getattr(said, name), []
    for rank in spread(own.shape[1], TABLE_ROWS):
        numbers = (_median(own[:, rank]), _median(values[:, rank]))
        rows.append((f"rank {rank}", *map(short, numbers), str(int(said.nonfinite[:, rank].sum()) or "")))
    return Table(("rank", f"{WORDS[name]}, median", "times the ranks' median", "steps not finite"), tuple(rows))
