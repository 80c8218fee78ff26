"""How do docstrings, written to be read as they are, become reStructuredText? Signs that would be markup are escaped.

A docstring here knows three marks: `code` between single backticks, examples after ``>>>``, and the sections ``Args:``,
``Returns:``, ``Raises:``. Everything else is text, |dL/dW| and a' and W_hh included. A paragraph that is indented
outside of a section is a formula or a drawing, and is kept as it is. (Napoleon would take "None: it is not known" below
a field for a type.)
"""

from __future__ import annotations

import re
from typing import Any

_CODE = re.compile(r"``.+?``|`[^`]+`")
_SECTIONS = {"Args:": ":param {}:", "Returns:": ":returns:", "Raises:": ":raises {}:"}
_ENTRY = re.compile(r"    (\w+): (.+)")


def to_rst(lines: list[str]) -> list[str]:
    r"""Escape, mark formulas as literal, and turn sections into field lists.

    >>> to_rst(["The norm |dL/dh_t| of `loss`:", "", "    a * b", "", "Args:", "    x: a number", "        or two."])
    ['The norm \\|dL/dh_t\\| of ``loss``:', '', '::', '', '    a * b', '', '', ':param x: a number', '    or two.']
    """
    out: list[str] = []
    section, in_example, in_literal = "", False, False
    for line in lines:
        in_example = bool(line.strip()) and (in_example or line.lstrip().startswith(">>>"))
        indented = line.startswith("    ")
        if line in _SECTIONS:
            section = line
            out.append("")
        elif section and indented:
            out.append(_field(section, line, is_first=not out[-1].strip()))
        elif indented and not in_example:
            out += [] if in_literal else ["::", ""]
            in_literal = True
            out.append(line)
        else:
            in_literal = in_literal and not line.strip()
            section = section if not line.strip() else ""
            out.append(line if in_example else _escape(line))
    return out


def _field(section: str, line: str, *, is_first: bool) -> str:
    entry = _ENTRY.fullmatch(line)
    if section == "Returns:":
        return f":returns: {_escape(line.strip())}" if is_first else f"    {_escape(line.strip())}"
    if entry is None:
        return f"    {_escape(line.strip())}"
    return f"{_SECTIONS[section].format(entry[1])} {_escape(entry[2])}"


def _escape(line: str) -> str:
    parts, at = [], 0
    for match in _CODE.finditer(line):
        parts += [_text(line[at : match.start()]), f"``{match.group().strip('`')}``"]
        at = match.end()
    return "".join([*parts, _text(line[at:])])


def _text(text: str) -> str:
    return re.sub(r"([|*\\]|_(?!\w))", r"\\\1", text)


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = to_rst(lines)


def setup(app: Any) -> dict[str, bool]:
    """Run on everything that autodoc reads."""
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
