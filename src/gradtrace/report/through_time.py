"""How does the gradient through time look in characters? A bar per stretch of steps, a heat map, then the sentences.

t=100 ━━━━━━━━━━━━━━━━━━━━━━━━   0.00    what is left of the loss gradient at h_t
t=90  ━━━━━━━━━━━━━━━━━━━       -2.31    and, beside it, what one step does there: a', W_hh, merge, carry
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.records.lyapunov import certificate
from gradtrace.records.shown import counted
from gradtrace.report.words import ascii_text, clean, decades, short, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gradtrace.records.time import Chain, Reach, ThroughTime

MOST_ROWS = 12
MOST_COLUMNS = 60
MOST_CHAINS = 6
MIN_SPAN = 3.0
"""Fewest decades that an axis covers."""
SHADES = " .:-=+*#%@"


def to_text(record: ThroughTime, width: int = 80, *, ascii_only: bool = False) -> str:
    """The whole record for a terminal."""
    text = "\n".join(_lines(record, max(width, 60)))
    return ascii_text(text.replace("━", "=")) if ascii_only else text


def _lines(record: ThroughTime, width: int) -> Iterator[str]:
    yield f"gradtrace through time: {clean(record.title)}   loss {short(record.loss)}"
    yield from section(record, width, MOST_CHAINS, MOST_ROWS)
    for number, reach in enumerate(_maps(record)):
        name = record.positions or record.chains[min(number, len(record.chains) - 1)].name
        yield ""
        yield from _heat_map(reach, clean(name), "x" if record.positions else "h", width)
    if record.positions:
        yield ""
        for sentence in record.sentences:
            yield from _wrapped(clean(sentence), width)
    for note in record.notes:
        yield from _wrapped(f"Note: {clean(note)}", width)


def section(record: ThroughTime, width: int, most_chains: int, most_rows: int) -> Iterator[str]:
    """The recurrences with the shortest horizons, each with its bars and what they say."""
    chains = sorted(record.chains, key=lambda c: c.horizon.steps / max(c.num_steps, 1) if c.horizon else math.inf)
    shown = [chain for chain in record.chains if chain in chains[:most_chains]]
    for chain in shown:
        yield ""
        yield from _chain(chain, width, most_rows)
        told = [one for one in record.sentences if one.startswith(f"{chain.name}: ")]
        for sentence in (*told, *_exponents(record, chain)):
            yield from _wrapped(clean(sentence), width)
    if len(record.chains) > len(shown):
        yield ""
        rest = [chain for chain in record.chains if chain not in shown]
        names = ", ".join(f"{clean(c.name)} ({c.horizon.steps:.0f})" if c.horizon else clean(c.name) for c in rest[:6])
        yield from _wrapped(f"And {len(rest)} more recurrences (horizon in steps): {names}", width)


def _maps(record: ThroughTime) -> list[Reach]:
    """The user's losses per step; without them, random gradients at the states of the first chain."""
    own = [chain.reach for chain in record.chains[:1] if chain.reach is not None]
    return list(record.losses[:MOST_CHAINS]) or own


def _wrapped(text: str, width: int) -> list[str]:
    return wrapped(text, width, "  ")


# ------------------------------------------------------------------------------------------------------ one recurrence


def _chain(chain: Chain, width: int, most_rows: int) -> Iterator[str]:
    kind = chain.kind if chain.kind == "loop" else chain.kind.upper().replace("_", " ")
    state = "(h, c)" if chain.cell else "h"
    head = f"{clean(chain.name)} ({kind}), {chain.num_steps} steps: gradient of {state}, decades of one step's gains"
    yield from _wrapped(head, width)
    rows = stretches(chain.num_steps, most_rows)
    states = chain.states
    best = max((x for x in states if math.isfinite(x)), default=0.0)
    levels = [_level(states[stop], best) for _, stop in rows]
    low = min([-MIN_SPAN, *(x for x in levels if math.isfinite(x))])
    heads = ["a'", "W_hh", "merge", *(["carry"] if chain.carried else [])]
    bar = width - 17 - 8 * len(heads) - (4 if chain.cuts else 0)
    yield " " * (9 + bar) + "left".rjust(8) + "".join(head.rjust(8) for head in heads)
    for (start, stop), level in zip(rows, levels, strict=True):
        gains = _mean_gains(chain, start, stop)
        cells = round(bar * (level - low) / -low) if math.isfinite(level) else 0
        told = [decades(level), *("" if math.isnan(x) else decades(x) for x in gains[: len(heads)])]
        numbers = "".join(text.rjust(8) for text in told)
        cut = " cut" if any(start < cut <= stop for cut in chain.cuts) else ""
        yield (f"t={stop}".ljust(9) + ("━" * cells).ljust(bar) + numbers + cut).rstrip()
    yield from _wrapped(_budget(chain), width)


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
    if not budget:
        return f"Over {chain.num_steps} steps: {decades(_level(chain.hidden[0], chain.hidden[-1]))} decades."
    total = math.fsum(budget.values())
    over, few = counted(chain.num_steps, "step"), len(chain.counted)
    if few < chain.num_steps:
        over = f"{few:,} of {over} (no gradient in the others)"
    told = (
        f"Over {over}: {decades(total)} decades = activations {decades(budget['activation'])}, "
        f"recurrent weights {decades(budget['weights'])}, merges {decades(budget['merge'])}."
    )
    if not chain.carried:
        return told
    gates = [chain.carry_gain(t) for t in range(1, chain.num_steps + 1)]
    name = "cell path (forget gates)" if chain.cell else "carry (update gates)"
    told += f" The {name} alone: {decades(math.fsum(x for x in gates if math.isfinite(x)))}"
    share = _mean([chain.carry_share(t) for t in range(2, chain.num_steps + 1)])
    return told + (f"; it brings {share:.0%} of the cell's gradient." if math.isfinite(share) else ".")


def _exponents(record: ThroughTime, chain: Chain) -> Iterator[str]:
    """What the largest exponent says and predicts, the growth measured beside it, and Pascanu's certificate."""
    spectrum = record.spectrum_of(chain)
    curve = chain.reach.curve() if chain.reach is not None else ()
    if spectrum is not None:
        told = spectrum.sentence()
        sent = "a random" if chain.reach is not None and chain.reach.source == "random" else "the given"
        if lag := max((lag for lag, left in enumerate(curve) if math.isfinite(left)), default=0):
            told += (
                f" Over {counted(lag, 'step')} that predicts {decades(spectrum.growth_decades(lag))} decades; of "
                f"{sent} gradient {decades(curve[lag])} were measured."
            )
        yield told
    horizon = chain.horizon
    rate = spectrum.largest if spectrum else horizon.decades_per_step * math.log(10) if horizon else math.nan
    if told := certificate(chain.kind, chain.singular_value, rate):
        yield f"{told[0].upper()}{told[1:]}."


# -------------------------------------------------------------------------------------------------------- heat map


def _heat_map(reach: Reach, name: str, letter: str, width: int) -> Iterator[str]:
    """Rows are t, columns s; a shade is a tenth of the span below the row's own largest."""
    longest = max(len(row) for row in reach.rows)
    columns = min(longest, MOST_COLUMNS, width - 11)
    kept = sorted({round(i) for i in _spaced(len(reach.rows) - 1, MOST_ROWS)})
    span = max(MIN_SPAN, min(9.0, -min((x for x in reach.curve() if math.isfinite(x)), default=0.0)))
    shade = f"{span / 9:.2g}"
    told = "one decade" if shade == "1" else f"{shade} decades"
    yield from _wrapped(f"|dL_t/d{letter}_s| of {name}: t down, s across; a shade is {told}", width)
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
