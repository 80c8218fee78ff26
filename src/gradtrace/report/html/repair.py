"""What was tried on copies, and what helped? Whose the lost decades are, before and after, loss curves, the patch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradtrace.measure.names import Names
from gradtrace.records.repair import Role
from gradtrace.report.figures.repair import band
from gradtrace.report.html.phrases import FACTORS
from gradtrace.report.html.section import Plot, Section, Table
from gradtrace.report.repair import conclusion, interval_told, name_of, shares_sentence, verdict
from gradtrace.report.words import clean, clean_lines, decades, short

if TYPE_CHECKING:
    from gradtrace.records.repair import Repair, Shares, Trial

MOST_CURVES = 5
"""Colours of the sheet."""
LETTERS = 60


def repair_section(repair: Repair) -> Section:
    """The repair as a section of the page."""
    plots: list[Plot] = []
    if repair.shares is not None:
        plots.append(_shares(repair.shares, Names(*repair.diagnosis.traces)))
    if (levels := _levels(repair)) is not None:
        plots.append(levels)
    if any(trial.outcomes for trial in repair.trials):
        plots.append(_curves(repair))
    best = repair.best
    code = "\n".join(clean_lines(best.diff or best.code)) if best is not None else ""
    notes = [clean(note) for note in repair.notes]
    if best is not None and best.no_diff:
        notes.append(f"No patch: {clean(best.no_diff)}. The lines to write are above.")
    return Section(
        "repair", "What was tried on copies, and what helped", conclusion(repair), tuple(plots), tuple(notes), code
    )


def _shares(shares: Shares, names: Names) -> Plot:
    told = shares_sentence(shares, names)
    parts = [(s.factor.value, FACTORS[s.factor], s.decades) for s in shares.shares]
    parts.append(("reshape", "left without them", shares.remaining))
    table = Table(("factor", "decades"), tuple((words, decades(value)) for _, words, value in parts))
    data = {"parts": parts, "label": told}
    reading = (
        f"{told} Each factor was taken away on a copy, alone and with the others; a share is its "
        "mean over all orders (Shapley), so that the shares add up."
    )
    return Plot("shares", "shares", "Which factor takes the decades", reading, data, table)


def _levels(repair: Repair) -> Plot | None:
    """Gradient by layer, of the unchanged network and of the best change."""
    before, best = repair.original, repair.best
    if before is None or best is None or not before.levels or not best.levels:
        return None
    lines = [
        ["before", [level for _, level in before.levels]],
        [name_of(best, LETTERS), [level for _, level in best.levels]],
    ]
    names = [name for name, _ in max(before.levels, best.levels, key=len)]
    rows = tuple(
        (clean(name), *(decades(levels[i][1]) if i < len(levels) else "" for levels in (before.levels, best.levels)))
        for i, name in enumerate(names)
    )
    reading = "Decades of the gradient from the loss (left) to the first layer (right), before the first step."
    data = {"lines": lines, "names": [clean(name) for name in names]}
    return Plot("levels", "levels", "Before and after", reading, data, Table(("layer", "before", "after"), rows))


def _curves(repair: Repair) -> Plot:
    chosen = _chosen(repair)
    bands = [band(trial) for trial in chosen]
    steps = sorted(set().union(*(set(at) for at, *_ in bands)))
    data = {
        "first": steps,
        "last": steps,
        "lines": [_line(trial, one, steps) for trial, one in zip(chosen, bands, strict=True)],
        "told": [],
        "linear": any(value <= 0.0 for _, low, _, _ in bands for value in low),
        "low": False,
        "broken": [],
        "events": [],
        "onsets": [],
        "controls": False,
    }
    reading = (
        f"Loss over the steps as {repair.measure} measures it: {repair.seeds} seeds, "
        f"{clean(repair.optimizer)}. The band reaches from the lowest seed to the highest."
    )
    return Plot("trials", "steps", "Trials", reading, data, _table(repair))


def _chosen(repair: Repair) -> list[Trial]:
    placebos = [t for t in repair.trials if t.role is Role.PLACEBO and t.outcomes]
    others = [t for t in (repair.original, *placebos[:1]) if t is not None and t.outcomes]
    candidates = [t for t in repair.candidates if t.outcomes and t.whole] or [
        t for t in repair.candidates if t.outcomes
    ]
    return [*candidates[: MOST_CURVES - len(others)], *others]


def _line(
    trial: Trial, found: tuple[list[int], list[float], list[float], list[float]], steps: list[int]
) -> dict[str, Any]:
    at, low, _, high = found
    lows, highs = dict(zip(at, low, strict=True)), dict(zip(at, high, strict=True))
    nothing = float("nan")
    return {
        "name": name_of(trial, LETTERS),
        "low": [lows.get(step, nothing) for step in steps],
        "high": [highs.get(step, nothing) for step in steps],
    }


def _table(repair: Repair) -> Table:
    rows = []
    is_held_out = any(trial.held_out is not None for trial in repair.trials)
    for trial in repair.trials:
        loss = [short(v) if v is not None else "" for v in (trial.start, trial.end, *[trial.held_out] * is_held_out)]
        moved = [decades(d) if d is not None else "" for d in (trial.predicted_decades, trial.moved_decades)]
        against = [interval_told(trial.against_original), interval_told(trial.against_placebo)]
        rows.append((clean(trial.title), *loss, *moved, *against, clean(verdict(trial))))
    heads = (
        "change",
        "loss from",
        "to",
        *["held-out"] * is_held_out,
        "decades predicted",
        "measured",
        "against the network",
        "the placebo",
        "verdict",
    )
    return Table(heads, tuple(rows))
