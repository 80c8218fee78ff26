"""How does the gradient through time look in characters? A bar per stretch of steps, a heat map, then the sentences.

t=100 ━━━━━━━━━━━━━━━━━━━━━━━━   0.00    what is left of the loss gradient at h_t
t=90  ━━━━━━━━━━━━━━━━━━━       -2.31    and, beside it, what one step does there: a', W_hh, merge, carry
"""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

from gradtrace.report.words import ascii_text, clean, decades, short

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gradtrace.records.time import Chain, Reach, ThroughTime

MOST_ROWS = 12
MOST_COLUMNS = 60
MOST_CHAINS = 6
MIN_SPAN = 3.0
"""Fewest decades that an axis covers."""
SHADES = " .:-=+*#%@"
GAMMA = {"rnn_tanh": 1.0, "rnn_relu": 1.0}
"""Largest derivative of the activation (Pascanu et al. 2013); 1/4 for a sigmoid, which nn.RNN does not have."""


def to_text(record: ThroughTime, width: int = 80, *, ascii_only: bool = False) -> str:
    """The whole record for a terminal."""
    text = "\n".join(_lines(record, max(width, 60)))
    return ascii_text(text.replace("━", "=")) if ascii_only else text


def _lines(record: ThroughTime, width: int) -> Iterator[str]:
    yield f"gradtrace through time: {clean(record.title)}   loss {short(record.loss)}"
    for chain in record.chains[:MOST_CHAINS]:
        yield ""
        yield from _chain(chain, width)
    if len(record.chains) > MOST_CHAINS:
        yield f"\nand {len(record.chains) - MOST_CHAINS} more recurrences"
    for number, reach in enumerate(record.losses[:MOST_CHAINS]):
        name = record.positions or record.chains[min(number, len(record.chains) - 1)].name
        yield ""
        yield from _heat_map(reach, clean(name), "x" if record.positions else "h")
    yield ""
    for sentence in record.sentences:
        yield from textwrap.wrap(clean(sentence), width, subsequent_indent="  ", break_on_hyphens=False)
    for note in record.notes:
        yield from textwrap.wrap(f"Note: {clean(note)}", width, subsequent_indent="  ", break_on_hyphens=False)


# ------------------------------------------------------------------------------------------------------ one recurrence


def _chain(chain: Chain, width: int) -> Iterator[str]:
    kind = chain.kind if chain.kind == "loop" else chain.kind.upper().replace("_", " ")
    state = "(h, c)" if chain.cell else "h"
    yield f"{clean(chain.name)} ({kind}), {chain.num_steps} steps: gradient of {state}, decades of one step's gains"
    rows = stretches(chain.num_steps, MOST_ROWS)
    states = chain.states
    best = max((x for x in states if math.isfinite(x)), default=0.0)
    levels = [_level(states[stop], best) for _, stop in rows]
    low = min([-MIN_SPAN, *(x for x in levels if math.isfinite(x))])
    heads = ["a'", "W_hh", "merge", *(["carry"] if chain.carried else [])]
    bar = width - 17 - 8 * len(heads)
    yield " " * (9 + bar) + "left".rjust(8) + "".join(head.rjust(8) for head in heads)
    for (start, stop), level in zip(rows, levels, strict=True):
        gains = _mean_gains(chain, start, stop)
        cells = round(bar * (level - low) / -low) if math.isfinite(level) else 0
        numbers = "".join(decades(x).rjust(8) for x in (level, *gains[: len(heads)]))
        cut = " cut" if any(start < cut <= stop for cut in chain.cuts) else ""
        yield f"t={stop}".ljust(9) + ("━" * cells).ljust(bar) + numbers + cut
    yield from textwrap.wrap(_budget(chain), width, break_on_hyphens=False)
    if told := certificate(chain):
        yield from textwrap.wrap(told, width, break_on_hyphens=False)


def stretches(num_steps: int, most: int) -> list[tuple[int, int]]:
    """(after step, up to step), the latest first: at most `most` of nearly equal length.

    >>> stretches(10, 4)
    [(7, 10), (5, 7), (2, 5), (0, 2)]
    """
    count = max(1, min(num_steps, most))
    edges = [int(num_steps * i / count) for i in range(count + 1)]
    return [(edges[i], edges[i + 1]) for i in range(count)][::-1]


def _level(value: float, best: float) -> float:
    if math.isnan(value) or math.isinf(value):
        return math.nan
    return math.log10(value) - math.log10(best) if value > 0 and best > 0 else -math.inf


def _mean_gains(chain: Chain, start: int, stop: int) -> list[float]:
    steps = range(start + 1, stop + 1)
    columns = [[chain.gains(t)[i] for t in steps] for i in range(3)] + [[chain.carry_gain(t) for t in steps]]
    return [_mean(column) for column in columns]


def _mean(values: Sequence[float]) -> float:
    kept = [x for x in values if math.isfinite(x)]
    return math.fsum(kept) / len(kept) if kept else math.nan


def _budget(chain: Chain) -> str:
    budget = chain.budget()
    total = math.fsum(budget.values())
    told = (
        f"Over {chain.num_steps} steps: {decades(total)} decades = activations {decades(budget['activation'])}, "
        f"recurrent weights {decades(budget['weights'])}, merges {decades(budget['merge'])}."
    )
    if not chain.carried:
        return told
    gates = [chain.carry_gain(t) for t in range(1, chain.num_steps + 1)]
    name = "cell path (forget gates)" if chain.cell else "carry (update gates)"
    told += f" The {name} alone: {decades(math.fsum(x for x in gates if math.isfinite(x)))}"
    share = _mean([chain.carry_share(t) for t in range(2, chain.num_steps + 1)])
    return told + (f"; it brings {share:.0%} of the cell's gradient." if math.isfinite(share) else ".")


def certificate(chain: Chain) -> str:
    """Pascanu's sufficient condition beside what was measured: true, and far from sharp; '' for gated cells."""
    gamma = GAMMA.get(chain.kind)
    if gamma is None or math.isnan(chain.singular_value):
        return ""
    bound = math.log10(chain.singular_value * gamma) if chain.singular_value else -math.inf
    verdict = "proves that the gradient vanishes" if bound < 0 else "proves nothing"
    told = f"Largest singular value of W_hh {chain.singular_value:.3g}, 1/gamma = {1 / gamma:g}: {verdict}"
    if chain.reach is None:
        return f"{told}."
    measured = chain.reach.horizon().decades_per_step
    return f"{told} (at most {bound:+.3f} decades a step; measured {measured:+.3f})."


# -------------------------------------------------------------------------------------------------------- heat map


def _heat_map(reach: Reach, name: str, letter: str) -> Iterator[str]:
    """Rows are t, columns s; a shade is a tenth of the span below the row's own largest."""
    longest = max(len(row) for row in reach.rows)
    columns = min(longest, MOST_COLUMNS)
    kept = sorted({round(i) for i in _spaced(len(reach.rows) - 1, MOST_ROWS)})
    span = max(MIN_SPAN, min(9.0, -min((x for x in reach.curve() if math.isfinite(x)), default=0.0)))
    yield f"|dL_t/d{letter}_s| of {name}: t down, s across; a shade is {span / 9:.2g} decades"
    for index in reversed(kept):
        row, best = reach.rows[index], max((x for x in reach.rows[index] if math.isfinite(x)), default=0.0)
        line = ""
        for column in range(columns):
            part = row[column * longest // columns : max((column + 1) * longest // columns, 1)]
            line += _shade(max(part, default=0.0), best, span) if part else " "
        yield f"t={reach.targets[index]}".ljust(9) + f"|{line.ljust(columns)}|"


def _spaced(last: int, count: int) -> list[float]:
    return (
        [last * i / max(count - 1, 1) for i in range(count)] if last >= count else [float(i) for i in range(last + 1)]
    )


def _shade(value: float, best: float, span: float) -> str:
    if not math.isfinite(value):
        return "?"
    if value <= 0 or best <= 0:
        return SHADES[0]
    depth = (math.log10(value) - math.log10(best)) / span
    return SHADES[max(0, min(9, 9 + math.floor(9 * depth + 0.5)))]
