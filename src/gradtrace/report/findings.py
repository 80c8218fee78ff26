"""How is a finding told in a terminal? What it is, where, its numbers and what to change, in plain sentences."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from gradtrace.records.vocabulary import Cause, Severity
from gradtrace.report.words import clean, clean_lines, number, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gradtrace.measure.names import Names
    from gradtrace.records.finding import Finding

STYLES = {Severity.CRITICAL: "bold #d53f34", Severity.WARNING: "bold #a46900", Severity.INFO: "bold #287aba"}
"""Read on black as on white, with a contrast of 4.5 or more: a terminal does not say which it is."""
_INDENT = 3
_LABEL = 10


def finding_lines(place: int, finding: Finding, width: int, names: Names) -> Iterator[Text]:
    """The finding at `place` in the ranking, in lines of `width` cells."""
    heading = Text(f"{place}. ").append(finding.severity.value.upper(), STYLES[finding.severity])
    cause = "" if finding.cause is Cause.NONE else f", because of {finding.cause.value.replace('_', ' ')}"
    yield heading.append(f"  {finding.code} {finding.symptom.value.replace('_', ' ')}{cause}", "bold")
    yield from paragraph(clean(finding.message), width)
    if finding.where:
        source = f"   {clean(finding.source)}" if finding.source else ""
        yield from paragraph(clean(names.listed(finding.where)) + source, width, "where")
    if finding.step is not None:
        yield from paragraph(f"from training step {finding.step} on", width, "when")
    if finding.evidence:
        yield from paragraph("; ".join(number(evidence) for evidence in finding.evidence), width, "numbers")
    for remedy in finding.remedies:
        told = f"{clean(remedy.title)} ({clean(remedy.source)})" if remedy.source else clean(remedy.title)
        yield from paragraph(told, width, "change", "bold #008661")
        yield from code_lines(clean_lines(remedy.code), width)


def paragraph(text: str, width: int, label: str = "", style: str = "dim") -> Iterator[Text]:
    """With a label in the margin, wrapping under itself."""
    indent = _INDENT + (_LABEL if label else 0)
    lines = wrapped(text, max(width - indent, 20))
    margin = Text(" " * _INDENT).append(label.ljust(_LABEL), style) if label else Text(" " * _INDENT)
    yield margin.append(lines[0], "")
    yield from (Text(" " * indent + line) for line in lines[1:])


def code_lines(lines: list[str], width: int) -> Iterator[Text]:
    """Below the text of its remedy, or further to the left where it is too wide for that."""
    indent = _INDENT + _LABEL + 2
    if max(map(cell_len, lines), default=0) > width - indent:
        indent = _INDENT
    for line in lines:
        for part in textwrap.wrap(line, width - indent, subsequent_indent="    ", break_on_hyphens=False):
            yield Text(" " * indent).append(part, "bold")
