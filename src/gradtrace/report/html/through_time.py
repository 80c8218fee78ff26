"""The fifth question: how far back in time does the gradient reach? Step by step, by lag, and as a map."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.measure.path import log10
from gradtrace.records.horizon import HALVED_DECADES, VANISHED_DECADES
from gradtrace.report.html.activations import spread
from gradtrace.report.html.section import Plot, Section, Table
from gradtrace.report.words import clean, decades, short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.lyapunov import LyapunovSpectrum
    from gradtrace.records.time import Chain, Reach, ThroughTime

MOST_CHAINS = 4
"""Recurrences that are drawn."""
MOST_ROWS = 200
"""Rows of a map, and of a table of steps."""


def through_time(records: Sequence[ThroughTime]) -> Section | None:
    """Gradient through time, horizon, map and exponents of all recurrences; None without any."""
    plots: list[Plot] = []
    for record in records:
        for chain in record.chains[:MOST_CHAINS]:
            plots += _chain_plots(chain, len(plots))
        for number, reach in enumerate(record.losses[:MOST_CHAINS]):
            chains = record.chains
            name = record.positions or (chains[min(number, len(chains) - 1)].name if chains else "the input")
            plots.append(_map(reach, clean(name), "x" if record.positions else "h", len(plots)))
        plots += [_exponents(spectrum, len(plots) + i) for i, spectrum in enumerate(record.spectra[:MOST_CHAINS])]
    if not plots:
        return None
    sentences = tuple(clean(sentence) for record in records for sentence in record.sentences)
    answer = sentences[0] if sentences else "The gradient of each state, from the last step back to the first."
    notes = tuple(clean(note) for record in records for note in record.notes)
    return Section("time", "How far back in time it reaches", answer, tuple(plots), (*sentences[1:], *notes))


def _chain_plots(chain: Chain, number: int) -> list[Plot]:
    name = clean(chain.name)
    plots = [_steps(chain, name, number)]
    if chain.reach is not None:
        plots += [_horizon(chain.reach, name, number + 1), _map(chain.reach, name, "h", number + 2)]
    return plots


def _steps(chain: Chain, name: str, number: int) -> Plot:
    lines = [["state (h, c)" if chain.cell else "state h", [log10(x) for x in chain.states]]]
    if chain.cell:
        lines += [["h alone", [log10(x) for x in chain.hidden]], ["cell c alone", [log10(x) for x in chain.cell]]]
    budget = ", ".join(f"{factor} {decades(total)}" for factor, total in chain.budget().items())
    few = "" if len(chain.counted) == chain.num_steps else f", over the {len(chain.counted)} that a gradient came to"
    reading = (
        f"|L'(s_t)|, the gradient of the state after step t, over {chain.num_steps} steps: time runs to the right, the "
        f"gradient to the left.{f' In decades{few}: {budget}.' if budget else ''}"
    )
    data = {"x": "step t", "y": "gradient", "lines": lines, "cuts": list(chain.cuts), "levels": []}
    return Plot(f"steps{number}", "series", f"{name}: gradient by step", reading, data, _steps_table(chain))


def _steps_table(chain: Chain) -> Table:
    rows = []
    for t in spread(chain.num_steps + 1, MOST_ROWS):
        gains = chain.gains(t) if t else (math.nan,) * 3
        told = tuple(
            "" if math.isnan(gain) else decades(gain) for gain in (*gains, chain.carry_gain(t) if t else math.nan)
        )
        rows.append((str(t), short(chain.states[t]), *told, "cut" if t in chain.cuts else ""))
    return Table(("step", "|gradient|", "a'", "W_hh", "merge", "carry", ""), tuple(rows))


def _horizon(reach: Reach, name: str, number: int) -> Plot:
    curve, horizon = reach.curve(), reach.horizon()
    beyond = " (extrapolated)" if horizon.extrapolated else ""
    reading = (
        f"How much of a gradient is left after going back so many steps (median). It falls to a half after "
        f"{short(horizon.half_steps)} steps, to a thousandth after {short(horizon.steps)}{beyond}."
    )
    levels = [[HALVED_DECADES, "a half"], [VANISHED_DECADES, "a thousandth"]]
    data = {"x": "steps back", "y": "left of it", "lines": [["left", list(curve)]], "cuts": [], "levels": levels}
    table = Table(
        ("steps back", "decades"), tuple((str(lag), decades(curve[lag])) for lag in spread(len(curve), MOST_ROWS))
    )
    return Plot(f"horizon{number}", "series", f"{name}: horizon", reading, data, table)


def _map(reach: Reach, name: str, letter: str, number: int) -> Plot:
    kept = spread(len(reach.targets), MOST_ROWS)
    longest = max((len(row) for row in reach.rows), default=0)
    columns = spread(longest, MOST_ROWS)
    rows = [[reach.targets[i], [log10(row[c]) if c < len(row) else math.nan for c in columns]]
            for i in kept for row in (reach.rows[i],)]  # fmt: skip
    data = {"letter": letter, "columns": columns, "rows": rows}
    what = "a random gradient at t" if reach.source == "random" else "what is lost at t"
    reading = (
        f"How the gradient of {what} arrives at an earlier s: a row is a t, a column an s. A bright diagonal "
        "alone means that only the last few steps are learnt from. Black is exactly zero; nothing is later than t."
    )
    few = spread(longest, 9)
    table = Table(
        ("t", *(f"s = {s}" for s in few)),
        tuple(
            (str(reach.targets[i]), *(short(reach.rows[i][s]) if s < len(reach.rows[i]) else "" for s in few))
            for i in kept
        ),
    )
    return Plot(f"map{number}", "timemap", f"{name}: |dL_t/d{letter}_s| of {what}", reading, data, table)


def _exponents(spectrum: LyapunovSpectrum, number: int) -> Plot:
    data = {"values": list(spectrum.exponents), "errors": list(spectrum.errors)}
    rows = zip(spectrum.exponents, spectrum.errors, strict=True)
    table = Table(
        ("rank", "nats per step", "+-"), tuple((str(i), f"{x:+.5f}", f"{e:.5f}") for i, (x, e) in enumerate(rows, 1))
    )
    reading = f"Above zero a direction grows, below it shrinks; bars are standard errors. {clean(spectrum.sentence())}"
    return Plot(f"exponents{number}", "exponents", f"{clean(spectrum.name)}: Lyapunov exponents", reading, data, table)
