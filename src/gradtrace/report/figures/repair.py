"""How did each copy train? Loss over the steps: the median of the seeds, and the band of all of them."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from gradtrace.errors import InputError
from gradtrace.records.repair import Role
from gradtrace.report.figures.palette import INK, SERIES, SOFT
from gradtrace.report.figures.paper import looking, new_figure
from gradtrace.report.repair import name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gradtrace.records.repair import Repair, Trial
    from gradtrace.records.shown import Columns

MOST_CURVES = 6
HEIGHT_IN = 2.4


def plot_repair(repair: Repair, *, columns: Columns = 1, axes: Axes | None = None) -> Figure:
    """Loss curves of the unchanged network, the placebo and the best candidates.

    Raises:
        InputError: nothing was trained, matplotlib is not installed, or `columns` is neither 1 nor 2.
    """
    trained = [trial for trial in repair.trials if trial.outcomes]
    if not trained:
        raise InputError("there is nothing to draw: no copy was trained")
    with looking():
        if axes is None:
            figure = new_figure(columns, HEIGHT_IN)
            axes = figure.subplots()
        for place, trial in enumerate(_chosen(trained)):
            _draw(axes, trial, place)
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.legend()
    found: Figure = axes.figure  # type: ignore[assignment]
    return found


def _chosen(trained: list[Trial]) -> list[Trial]:
    """The best candidates, then what they are compared with."""
    candidates = [trial for trial in trained if trial.role is Role.CANDIDATE and trial.whole]
    others = [trial for trial in trained if trial.role is not Role.CANDIDATE]
    return [*candidates[: MOST_CURVES - len(others)], *others]


def _draw(axes: Axes, trial: Trial, place: int) -> None:
    steps, low, middle, high = band(trial)
    colour = {Role.ORIGINAL: INK, Role.PLACEBO: SOFT}.get(trial.role, SERIES[place % len(SERIES)])
    axes.plot(
        steps,
        middle,
        color=colour,
        label=name_of(trial, 40),
        ls="--" if trial.role is Role.PLACEBO else "-",
    )
    axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)


def band(trial: Trial) -> tuple[list[int], list[float], list[float], list[float]]:
    """(steps, lowest, median, highest) over the seeds, as far as all of them went and stayed finite."""
    curves = [dict(outcome.curve) for outcome in trial.outcomes]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    rows = [(step, [curve[step] for curve in curves]) for step in steps]
    rows = [(step, values) for step, values in rows if all(map(math.isfinite, values))]
    return (
        [step for step, _ in rows],
        [min(values) for _, values in rows],
        [statistics.median(values) for _, values in rows],
        [max(values) for _, values in rows],
    )
