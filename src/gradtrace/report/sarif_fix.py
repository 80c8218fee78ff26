"""How does a patch stand in SARIF? As replacements of whole lines, which an editor applies with one click.

Source: OASIS, SARIF 2.1.0, sections 3.55 (fix) to 3.57 (replacement): a region of no length is a place to insert at.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from gradtrace.report.checked import place_of

if TYPE_CHECKING:
    from pathlib import Path

    from gradtrace.records.repair import Repair


def fix_of(repair: Repair, root: Path) -> dict[str, Any] | None:
    """The recommended change as SARIF has it; None without a proof, or a patch of files in `root`."""
    best = repair.best
    if best is None or not best.diff:
        return None
    changes = []
    for name, hunks in per_file(best.diff):
        place = place_of(f"{name}:1", root)
        if place is None:
            return None
        changes.append({"artifactLocation": {"uri": quote(place[0])}, "replacements": replacements(hunks)})
    told = f"{best.title.removesuffix('.')}. {best.verdict}".strip()
    return {"description": {"text": told}, "artifactChanges": changes}


def per_file(diff: str) -> list[tuple[str, str]]:
    r"""(name, hunks) of each file in a unified diff.

    >>> per_file("--- a/n\n+++ b/n\n@@ -1 +1 @@\n-x\n+y\n--- a/m\n+++ b/m\n@@ -2 +2 @@\n-x\n+z\n")
    [('n', '@@ -1 +1 @@\n-x\n+y\n'), ('m', '@@ -2 +2 @@\n-x\n+z\n')]
    """
    _, *parts = re.split(r"^--- a/(.+)\n\+\+\+ b/\1\n(?=@@ )", diff, flags=re.MULTILINE)
    return list(zip(parts[::2], parts[1::2], strict=True))


def replacements(hunks: str) -> list[dict[str, Any]]:
    r"""One for each run of lines that a unified diff takes out and puts in.

    >>> replacements("@@ -2,2 +2,3 @@\n kept\n-old\n+new\n+more\n")
    [{'deletedRegion': {'startLine': 3, 'startColumn': 1, 'endLine': 4, 'endColumn': 1},
      'insertedContent': {'text': 'new\nmore\n'}}]
    """
    found: list[tuple[int, int, list[str]]] = []
    at, is_open, before = 0, False, ""
    for line in hunks.splitlines(keepends=True):
        sign, text = line[0], line[1:]
        if sign == "@":
            start, _, count = line.split()[1].removeprefix("-").partition(",")
            at, is_open = int(start) + (count == "0"), False  # of an empty range the line before is named
        elif sign == "\\" and before == "+":  # no newline at the end of the file
            found[-1][2][-1] = found[-1][2][-1].removesuffix("\n")
        elif sign == " ":
            at, is_open = at + 1, False
        elif sign in "-+":
            if not is_open:
                found.append((at, at, []))
            first, end, made = found[-1]
            if sign == "-":
                at = end = end + 1
            else:
                made.append(text)
            found[-1], is_open = (first, end, made), True
        before = sign
    return [_replacement(first, end, "".join(made)) for first, end, made in found]


def _replacement(first: int, end: int, text: str) -> dict[str, Any]:
    """Of the lines from `first` to the one before `end`."""
    region = {"startLine": first, "startColumn": 1, "endLine": end, "endColumn": 1}
    return {"deletedRegion": region, "insertedContent": {"text": text}}
