"""What does a tired person see? The picture, the findings in plain sentences, what to change, what was not seen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from gradtrace.diagnosis.thresholds import UPDATE_HEALTHY, UPDATE_USUAL
from gradtrace.measure.names import Names
from gradtrace.records.shown import counted
from gradtrace.records.vocabulary import Factor, Severity
from gradtrace.report.findings import finding_lines, paragraph
from gradtrace.report.number_formats import short_words
from gradtrace.report.picture import LOOKS, draw
from gradtrace.report.tables import (
    BARE,
    Picture,
    counts,
    main_trace,
    picture,
    probe_trace,
    relative_range,
    told_apart,
    unseen,
    update_range,
)
from gradtrace.report.through_time import section
from gradtrace.report.words import (
    ascii_text,
    clean,
    decades,
    listed,
    power,
    short,
    shorten,
    wrapped,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gradtrace.records.finding import Diagnosis, Finding
    from gradtrace.records.time import ThroughTime
    from gradtrace.records.trace import Trace
    from gradtrace.report.rows import Row

MAX_WIDTH = 120
MOST_NAME = 48
"""Cells of a layer's name within a sentence."""
TIME_CHAINS, TIME_ROWS = 2, 8
"""Recurrences shown in a check, and stretches of time of each."""


def show(diagnosis: Diagnosis, console: Console | None = None, *, bare: bool = False) -> None:
    """Print `diagnosis`: the picture, the findings, what to change, what was not seen; `bare`: of one trace alone."""
    console = console or Console()
    _print(console, _diagnosis(diagnosis, min(console.width, MAX_WIDTH), console.options.ascii_only, bare))


def show_trace(trace: Trace, console: Console | None = None) -> None:
    """Print the picture of one trace, unjudged."""
    console = console or Console()
    width, table = min(console.width, MAX_WIDTH), picture(trace)
    drawn = _picture(table, width, console.options.ascii_only, Names(trace))
    _print(console, [_title("trace", trace), *drawn, *_formats(trace, width), *_notes(trace, width)])


def show_findings(findings: Sequence[Finding], console: Console, names: Names | None = None) -> None:
    """Print them as `show` does, without a picture; `names` are those of a trace of the same model."""
    width = min(console.width, MAX_WIDTH)
    for place, finding in enumerate(findings, start=1):
        _print(console, [*finding_lines(place, finding, width, names or Names()), Text()])


def _print(console: Console, lines: Iterable[Text]) -> None:
    """Wrapped here, so that no line ends in blanks; one blank line at most between two others.

    Printed at once, so that it is one block in a notebook.
    """
    width, blank, parts = min(console.width, MAX_WIDTH), False, list[Text]()
    for line in lines:
        for part in line.wrap(console, width) or [Text()]:
            part.rstrip()
            if console.options.ascii_only:
                part.plain = ascii_text(part.plain)
            if part.plain or not blank:
                parts.append(part)
            blank = not part.plain
    while parts and not parts[-1].plain:
        parts.pop()
    console.print(Text("\n").join(parts), markup=False, highlight=False, emoji=False, soft_wrap=True)


def _diagnosis(diagnosis: Diagnosis, width: int, ascii_only: bool, bare: bool) -> Iterator[Text]:
    trace, probe = main_trace(diagnosis), probe_trace(diagnosis)
    table = picture(trace, updates=diagnosis.updates) if trace is not None else None
    names = Names(*diagnosis.traces)
    yield _title(diagnosis.title or "check", trace)
    if table is not None:
        yield from _picture(table, width, ascii_only, names)
    if probe is not None and (through := picture(probe)).rows:
        yield Text(f"A random gradient at the output: {decades(through.rows[-1].after)} decades on its way through.")
    if (record := diagnosis.through_time) is not None:
        yield from _through_time(record, width, ascii_only)
    yield Text()
    if diagnosis.healthy:
        yield _healthy(diagnosis, trace, table, names, "Nothing wrong in this one trace" if bare else "Healthy")
    if bare:
        yield Text(BARE)
    for place, finding in enumerate(diagnosis.findings, start=1):
        yield Text()
        yield from finding_lines(place, finding, width, names)
    yield Text()
    if diagnosis.losses:
        told = f"loss {diagnosis.losses[0]:#.3g} to {diagnosis.losses[-1]:#.3g}"
        yield Text(f"Trained a copy for {counted(diagnosis.num_steps, 'step')}: {told}.")
    if trace is not None:
        yield from _formats(trace, width)
    for title, sentences in (("Not judged", diagnosis.refusals), ("Thresholds moved", diagnosis.moved)):
        if sentences:
            yield Text(f"\n{title}", "bold")
        for sentence in sentences:
            yield from paragraph(clean(sentence), width)
    if trace is not None:
        yield from _notes(trace, width)


def verdict(diagnosis: Diagnosis) -> str:
    """One line: healthy or not, how many findings of each severity, and where to read on.

    >>> from gradtrace.records.finding import Diagnosis
    >>> verdict(Diagnosis(()))
    'Healthy: no findings.'
    """
    return _verdict(diagnosis.findings, "Healthy:" if diagnosis.healthy else "Unhealthy:")


def verdict_on_all(diagnoses: Sequence[Diagnosis]) -> str:
    """Of several targets in one line: how many are unhealthy, and the findings of all together.

    >>> from gradtrace.records.finding import Diagnosis
    >>> verdict_on_all([Diagnosis(()), Diagnosis(())])
    'Healthy: 2 targets, no findings.'
    """
    ill = sum(not diagnosis.healthy for diagnosis in diagnoses)
    findings = [finding for diagnosis in diagnoses for finding in diagnosis.findings]
    findings.sort(key=lambda finding: -finding.severity.rank)
    targets = counted(len(diagnoses), "target")
    return _verdict(findings, f"Unhealthy: {ill} of {targets}," if ill else f"Healthy: {targets},")


def _verdict(findings: Sequence[Finding], begins: str) -> str:
    if not findings:
        return f"{begins} no findings."
    found = [finding.severity for finding in findings]
    told = ", ".join(f"{found.count(one)} {one.value}" for one in reversed(Severity) if one in found)
    return f"{begins} {counted(len(found), 'finding')}, {told} (gradtrace explain {findings[0].code})."


def _title(title: str, trace: Trace | None) -> Text:
    line = Text("gradtrace ", "bold").append(clean(title))
    if trace is None:
        return line
    line.append(f"   loss {short(trace.loss)}" if trace.probe == "loss" else "   random gradient at the output")
    if trace.batch_size is not None:
        line.append(f", batch of {trace.batch_size}")
    return line.append(f", {counted(len(trace.ops), 'op')}, {counted(len(trace.parameters), 'parameter')}")


# ---------------------------------------------------------------------------------------------------------- picture


def _picture(table: Picture, width: int, ascii_only: bool, names: Names) -> Iterator[Text]:
    yield Text()
    if not table.rows:
        yield Text("No layer with weights received a gradient: there is nothing to draw.")
        return
    yield from draw(table, width, ascii_only=ascii_only)
    yield Text()
    yield _budget(table, names)
    if (bound := _bound(table)) is not None:
        yield bound


def _budget(table: Picture, names: Names) -> Text:
    line = Text(f"From the {table.start} to {_told(*table.ends, names)}: ").append(
        decades(table.rows[-1].after), "bold"
    )
    line.append(" decades = ")
    for place, factor in enumerate(table.told):
        line.append(", " if place else "")
        line.append(f"{LOOKS[factor].meaning} {decades(table.totals[factor])}", LOOKS[factor].style)
        if factor is Factor.WEIGHT and counts(table.gates):
            line.append(f" (products with gates {decades(table.gates)})")
    return line.append(".")


def _bound(table: Picture) -> Text | None:
    """0.25^k, where the activations' bound says something."""
    if not -math.inf < table.bound <= -1.0:
        return None
    name = clean(table.functions[0]) if len(table.functions) == 1 else "activation"
    base, k = 10 ** (table.bound / table.num_bounded), table.num_bounded
    measured, offset = (table.totals.get(factor, 0.0) for factor in (Factor.ACTIVATION, Factor.WEIGHT))
    if not math.isfinite(measured + offset):
        return None
    weights = "win back" if offset > 0 else "take another"
    return Text(
        f"Bound: {k} {name} layers pass on {short(base)}^{k} = {power(table.bound)} at most ({decades(table.bound)} "
        f"decades). Measured: {decades(measured)}; the weights {weights} {decades(offset)}."
    )


def _through_time(record: ThroughTime, width: int, ascii_only: bool) -> Iterator[Text]:
    """The recurrences with the shortest horizons, step by step."""
    yield Text("\nThrough time", "bold")
    for line in section(record, max(width, 60), TIME_CHAINS, TIME_ROWS):
        yield Text(line.replace("━", "=") if ascii_only else line)


def _told(row: Row, other: Row, names: Names) -> str:
    return shorten(clean(row.told_beside(other, names)), MOST_NAME)


# --------------------------------------------------------------------------------------------------------- findings


def _healthy(diagnosis: Diagnosis, trace: Trace | None, table: Picture | None, names: Names, label: str) -> Text:
    told = []
    if table is not None and table.rows:
        early, late = table.ends
        if (apart := told_apart(table, trace)) is not None:
            what, by = apart
            told.append(f"{_told(early, late, names)} gets {power(by)} times {what} {_told(late, early, names)}")
    if (moved := update_range(diagnosis.updates)) is not None:
        large = "; more is large, and no fault by itself" if moved[1] > UPDATE_HEALTHY else ""
        told.append(
            f"a step moves weights by {_span(moved)} of their size (usual: about {UPDATE_USUAL:g}, fine: up to "
            f"{UPDATE_HEALTHY:g}{large})"
        )
    elif trace is not None and (ratios := relative_range(trace)) is not None:
        told.append(f"|grad|/|W| {_span(ratios)}")
    told.append("no finding" if not diagnosis.findings else "nothing above info")
    return Text(label, "bold #008661").append(": " + "; ".join(told) + ".")


def _span(ends: tuple[float, float]) -> str:
    low, high = map(short, ends)
    return low if low == high else f"{low} to {high}"


def _formats(trace: Trace, width: int) -> Iterator[Text]:
    """What half precision would lose, where it would lose something."""
    for sentence in short_words(trace):
        yield from (Text(line) for line in wrapped(sentence, width))


def show_formats(trace: Trace, console: Console) -> None:
    """Print what half precision would lose of its gradients, where it would lose something."""
    _print(console, _formats(trace, min(console.width, MAX_WIDTH)))


def _notes(trace: Trace, width: int) -> Iterator[Text]:
    """What was not seen, and where the first number that is not finite was born."""
    told = unseen(trace)
    if told:
        yield Text("\nNot seen", "bold")
    for what, names in told:
        yield from paragraph(clean(what) + (f": {listed(names)}" if names else ""), width)
    if (birth := trace.nonfinite) is not None:
        detail = f" ({clean(birth.detail)})" if birth.detail else ""
        yield Text("\nFirst number that is not finite", "bold")
        yield from paragraph(f"{clean(birth.op)} at {clean(str(birth.site))}, {birth.phase}{detail}", width)
