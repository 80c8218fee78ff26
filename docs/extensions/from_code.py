"""What the code knows already is not typed again: a line ``<!-- from code: NAME -->`` of a page becomes Markdown.

`WRITERS` maps the first word of NAME to the function that writes it; it gets the words behind it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from docs.extensions import code_tables, gallery

if TYPE_CHECKING:
    from collections.abc import Callable

WRITERS: dict[str, Callable[..., str]] = {
    "activations": code_tables.activations,
    "casebook": gallery.family,
    "casebook-overview": gallery.overview,
    "casebook-totals": gallery.totals,
    "code": code_tables.code,
    "codes": code_tables.codes,
    "enum": code_tables.enum,
    "glossary": code_tables.glossary,
    "measured": code_tables.measured,
    "op-kinds": code_tables.op_kinds,
    "remedies": code_tables.remedies,
    "rules": code_tables.rules,
    "thresholds": code_tables.thresholds,
}
_MARK = re.compile(r"^<!-- from code: (.+?) -->$", re.MULTILINE)


def fill(text: str) -> str:
    """The page with every mark replaced.

    >>> "0.25" in fill("<!-- from code: activations sigmoid -->")
    True
    """

    def write(match: re.Match[str]) -> str:
        name, *arguments = match[1].split()
        return WRITERS[name](*arguments)

    return _MARK.sub(write, text)


def _source_read(app: Any, page: str, source: list[str]) -> None:
    source[0] = fill(source[0])


def setup(app: Any) -> dict[str, bool]:
    """Fill pages as they are read."""
    app.connect("source-read", _source_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
