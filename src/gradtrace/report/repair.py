"""What was tried, and what helped? Shares, trials beside the unchanged network and the placebo, the patch."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from rich.console import Console

from gradtrace.diagnosis.thresholds import DIVERGED_FACTOR
from gradtrace.measure.names import Names
from gradtrace.records.repair import Role
from gradtrace.records.shown import counted
from gradtrace.report.words import ascii_text, clean, clean_lines, decades, padded, short, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gradtrace.records.finding import Finding
    from gradtrace.records.repair import Difference, Repair, Shares, Trial

MAX_WIDTH = 120
MOST_CODE = 40
"""Lines of a patch that are shown."""
_CELL = 8
_CURVE_CELL = 7


def show(repair: Repair, console: Console | None = None) -> None:
    """Print `repair`."""
    console = console or Console()
    text = to_text(repair, min(console.width, MAX_WIDTH))
    text = ascii_text(text) if console.options.ascii_only else text
    console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


def to_text(repair: Repair, width: int = 100) -> str:
    """The repair for a terminal of `width` cells."""
    return "\n".join(line.rstrip() for line in _lines(repair, width))


def to_html(repair: Repair) -> str:
    """A fragment for notebooks: the losses of what was tried, and the text as it stands, escaped."""
    from html import escape

    from gradtrace.report.svg import LINES, curves

    beside = (trial for trial in repair.trials if trial.role is not Role.CANDIDATE)
    shown = [one for one in (*repair.candidates[:3], *beside) if one.outcomes][: len(LINES)]
    lines = [(one.title, [loss for _, loss in one.outcomes[0].curve]) for one in shown]
    drawn = curves(lines, "loss over the steps, of one seed") if lines else ""
    return f'<div class="gradtrace">{drawn}<pre>{escape(to_text(repair, 110))}</pre></div>'


def _lines(repair: Repair, width: int) -> Iterator[str]:
    yield from wrapped(f"gradtrace fix {clean(repair.title)}", width)
    finding = next(iter(repair.diagnosis.findings), None)
    if finding is not None:
        cause = f", because of {finding.cause.value.replace('_', ' ')}" if finding.cause.value != "none" else ""
        yield f"{finding.severity.value.upper()}  {finding.symptom.value.replace('_', ' ')}{cause}"
    if repair.shares is not None:
        yield from wrapped(shares_sentence(repair.shares, Names(*repair.diagnosis.traces)), width)
    if finding is not None and repair.best is None and not repair.diagnosis.healthy:
        yield from _by_hand(finding, width)
    yield ""
    if repair.trials:
        yield from wrapped(
            f"Trained on copies: {counted(repair.steps, 'step')}, {repair.seeds} seeds, {clean(repair.optimizer)}. "
            f"From, to: the loss, as {repair.measure} measures it; decades: by how much the change moves the "
            "first layer's gradient; update: of a step there, over |W|.",
            width,
        )
        yield from _table(repair, width)
        yield ""
    yield from wrapped(conclusion(repair), width)
    for note in repair.notes:
        yield from wrapped(f"Note: {clean(note)}", width)
    for sentence in repair.diagnosis.moved:
        yield from wrapped(f"Moved: {clean(sentence)}", width)
    yield from _patch(repair.best)


def _by_hand(finding: Finding, width: int) -> Iterator[str]:
    """Where nothing that was tried helped: what is wrong, at which line, and what its author can do."""
    yield ""
    yield from wrapped(clean(finding.message), width)
    if finding.source and finding.source not in finding.message:
        yield f"At {clean(finding.source)}."
    for remedy in finding.remedies[:2]:
        yield from wrapped(f"- {clean(remedy.title)}", width)
        yield from clean_lines(remedy.code)


def shares_sentence(shares: Shares, names: Names) -> str:
    """What each factor explains of the deficit, in a sentence."""
    told = ", ".join(f"the {share.factor.value} explains {decades(share.decades)}" for share in shares.shares)
    late, first = (clean(names.told(path)) if path else "" for path in (shares.late, shares.first))
    return (
        f"Of {decades(shares.deficit)} decades between {late or 'the late layer'} and {first or 'the first'}, {told}; "
        f"{decades(shares.remaining)} remain without them."
    )


def conclusion(repair: Repair) -> str:
    """What is recommended, in a sentence."""
    best, proven = repair.best, sum(trial.proven for trial in repair.trials)
    tried = [trial for trial in repair.candidates if trial.outcomes]
    if best is None and tried and not any(trial.whole for trial in tried):
        return f"Undecided: time was up before any of the {len(tried)} tried had been trained in full. Allow more time."
    if best is None:
        return f"None of these helped ({len(tried)} tried)." if tried else "Nothing was changed."
    others = f"{proven - 1} others beat both too, and were" if proven > 2 else "1 other beat both too, and was"
    more = f" {others} not run again." if proven > 1 else ""
    again = (
        f" It beat the unchanged network and the placebo, and did so again on {len(best.confirmation)} seeds that had "
        f"no part in choosing it. Of {len(tried)} tried none is better beyond chance, nor as good with less change."
        if best.confirmation
        else " It beat the unchanged network and the placebo, and was not run again on other seeds."
    )
    return f"Recommended: {clean(best.title)}{_at_rate(best, repair.original)}{again}{more}"


def _at_rate(best: Trial, original: Trial | None) -> str:
    """Where the rates are ours, at which it was trained: without it the change is not what was tried."""
    if best.rate is None or original is None or original.rate is None:
        return ""
    return f" Train it at a learning rate of {best.rate:g}; the network as it came did best at {original.rate:g}."


def curves(repair: Repair) -> str:
    """Median loss over the seeds, step by step: the network as it came, and what is recommended; '' without either."""
    pair = [trial for trial in (repair.original, repair.best) if trial is not None and trial.outcomes]
    if len(pair) < 2:
        return ""
    steps = [step for step, _ in pair[0].outcomes[0].curve]
    rows = [("step", [str(step) for step in steps])]
    rows += [(name, _median_losses(trial, steps)) for name, trial in zip(("unchanged", "changed"), pair, strict=True)]
    return "\n".join(f"{name:<10}" + "".join(cell.rjust(_CURVE_CELL) for cell in cells) for name, cells in rows)


def _median_losses(trial: Trial, steps: Sequence[int]) -> list[str]:
    known = [dict(outcome.curve) for outcome in trial.outcomes]
    found = [[curve[step] for curve in known if step in curve] for step in steps]
    return [short(statistics.median(losses)) if losses else "-" for losses in found]


def _table(repair: Repair, width: int) -> Iterator[str]:
    size = max(22, width - 4 * _CELL - 26)
    is_held_out = any(trial.held_out is not None for trial in repair.trials)
    last = "held-out" if is_held_out else "update"
    heads = "".join(head.rjust(_CELL) for head in ("from", "to", "decades", last))
    yield f"   {''.ljust(size)}{heads}  verdict"
    for trial in repair.trials:
        yield from _row(trial, size, width, is_held_out=is_held_out)


def _row(trial: Trial, size: int, width: int, *, is_held_out: bool) -> Iterator[str]:
    mark = "+" if trial.proven else {Role.ORIGINAL: "=", Role.PLACEBO: "o"}.get(trial.role, " ")
    moved = decades(trial.moved_decades) if trial.moved_decades is not None else "-"
    last = trial.held_out if is_held_out else trial.first_layer_ratio
    cells = [_known(trial.start), _known(trial.end), moved, _known(last)]
    rate = f" (learning rate {trial.rate:g})" if trial.rate is not None else ""
    title = wrapped(clean(trial.title) + rate, size)
    told = wrapped(clean(verdict(trial)), max(16, width - 5 - size - 4 * _CELL))
    for place in range(max(len(title), len(told))):
        left = padded(title[place], size) if place < len(title) else " " * size
        numbers = "".join(f" {cell}".rjust(_CELL) for cell in cells) if place == 0 else " " * (4 * _CELL)
        right = told[place] if place < len(told) else ""
        yield f" {mark if place == 0 else ' '} {left}{numbers}  {right}"


def name_of(trial: Trial, letters: int) -> str:
    """Its title, cut at the end: what is done stands at the beginning.

    >>> from gradtrace.records.repair import Role, Trial
    >>> name_of(Trial("Replace sigmoid by ReLU, and draw the weights for it.", Role.CANDIDATE), 24)
    'Replace sigmoid by ReLU…'
    """
    title = clean(trial.title)
    return title if len(title) <= letters else f"{title[: letters - 1]}…"


def verdict(trial: Trial) -> str:
    """The verdict with its interval."""
    if trial.refused:
        return f"refused: {trial.refused}"
    if trial.role is Role.ORIGINAL:
        return "unchanged"
    told = trial.verdict
    if trial.proven:
        told = "proven" if trial.confirmed is not None else "better than both"
    interval = interval_told(trial.confirmed or trial.against_original)
    return f"{told} {interval}".strip()


def interval_told(difference: Difference | None) -> str:
    """``(x0.17, 0.10 to 0.27)``: what is left of the unchanged network's loss, with its interval.

    >>> from gradtrace.records.repair import Difference
    >>> interval_told(Difference(-0.7, -0.8, -0.6)), interval_told(Difference(-0.7, -0.8, -0.6, is_ratio=False))
    ('(x0.497, 0.449 to 0.549)', '')
    """
    if difference is None or not difference.is_ratio:
        return ""
    if not all(map(math.isfinite, (difference.mean, difference.low, difference.high))):
        return ""
    if difference.high <= -math.log(DIVERGED_FACTOR):
        return f"(x{short(1.0 / DIVERGED_FACTOR)} or less)"
    mean, low, high = (math.exp(min(x, 50.0)) for x in (difference.mean, difference.low, difference.high))
    return f"(x{short(mean)}, {short(low)} to {short(high)})"


def _known(value: float | None) -> str:
    return "-" if value is None else short(value)


def _patch(best: Trial | None) -> Iterator[str]:
    if best is None:
        return
    yield ""
    if best.no_diff:
        yield f"No patch: {clean(best.no_diff)}. The lines to write:"
    text = best.diff or best.code
    lines = clean_lines(text)
    yield from lines[:MOST_CODE]
    if len(lines) > MOST_CODE:
        yield f"... {len(lines) - MOST_CODE} more lines"
