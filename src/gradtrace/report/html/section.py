"""What is a section of the page made of? Sentences, plots, and beside every plot a table with the same numbers."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from gradtrace.report.words import clean


@dataclass(frozen=True, slots=True)
class Table:
    """Text cells under headings; the first column names the row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture: what it shows, how to read it, its numbers, and the same as a table."""

    key: str
    """Its name in the page: one word for each plot."""
    kind: str
    """The name of the function in `static` that draws it."""
    title: str
    reading: str
    """One or two sentences on how to read it."""
    data: Any
    """For `as_json`."""
    table: Table
    folded: str = ""
    """Words to click on, where the picture says little and is folded away; '' shows it."""


@dataclass(frozen=True, slots=True)
class Section:
    """One question of the reader's, and its answer."""

    key: str
    title: str
    answer: str
    """The answer in a sentence or two."""
    plots: tuple[Plot, ...] = ()
    notes: tuple[str, ...] = field(default=())
    code: str = ""
    """Lines of code or of a unified diff, shown below the answer."""


def as_json(value: Any) -> str:
    r"""Strict JSON that ends no script element: every ``<``, ``>`` and ``&`` is escaped.

    Floats are kept to six digits; NaN is null, and an infinity the string 'inf' or '-inf'.

    >>> as_json({"</script>": [math.nan, -math.inf, 1 / 3]})
    '{"\\u003c/script\\u003e":[null,"-inf",0.333333]}'
    """
    text = json.dumps(_plain(value), separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {clean(str(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return ("inf" if value > 0 else "-inf") if math.isinf(value) else float(f"{value:.6g}")
    assert value is None or isinstance(value, int | bool), f"no JSON for {type(value).__name__}"
    return value
