"""How are numbers and names written? The same in every renderer."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.finding import Evidence


def decades(value: float) -> str:
    """A sum of log10 in at most six characters.

    >>> [decades(x) for x in (-0.602, 12.04, -1234.5, 0.001, float("-inf"), float("nan"))]
    ['-0.60', '+12.0', '-1234', '0.00', 'zero', 'NaN']
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "zero" if value < 0 else "inf"
    if abs(value) < 0.005:
        return "0.00"
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:+.{digits}f}"


def short(value: float) -> str:
    """A number to two or three digits.

    >>> [short(x) for x in (0.0, 1.5, 0.25, 3.14e-9, 128, float("inf"))]
    ['0', '1.5', '0.25', '3.1e-09', '128', 'inf']
    """
    if math.isnan(value):
        return "NaN"
    if value == 0 or (0.01 <= abs(value) < 1e4):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{value:.1e}"


def power(exponent: float) -> str:
    """10 to this power, as a number even where a float has none.

    >>> power(-12.04), power(-700.5), power(0.3)
    ('9.1e-13', '3.2e-701', '2')
    """
    if not math.isfinite(exponent):
        return "0" if exponent == -math.inf else "NaN"
    if abs(exponent) < 300:
        return short(10.0**exponent)
    whole = math.floor(exponent)
    return f"{10 ** (exponent - whole):.1f}e{whole:+d}"


def number(evidence: Evidence) -> str:
    """What it is called, its value and its unit.

    >>> from gradtrace.records.finding import Evidence
    >>> number(Evidence("gain", -0.65, "decades")), number(Evidence("dead layers", 1.0, "layers"))
    ('gain -0.65 decades', 'dead layers 1 layer')
    """
    value = decades(evidence.value) if evidence.unit.startswith("decades") else short(evidence.value)
    if evidence.unit == "fraction" and math.isfinite(evidence.value):
        value, unit = f"{100 * evidence.value:.3g} %", ""
    else:
        unit = f" {clean(evidence.unit)}" if evidence.unit else ""
        unit = unit.removesuffix("s") if value == "1" else unit
    return f"{clean(evidence.name).replace('_', ' ')} {value}{unit}"


def clean(text: str) -> str:
    """Without control characters, line breaks or direction marks: a name cannot move the cursor.

    >>> clean("a[red]b" + chr(27) + "[31m")
    'a[red]b?[31m'
    """
    return "".join("?" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text)


def ascii_text(text: str) -> str:
    """As many cells as before, for terminals that know no other characters.

    >>> ascii_text("layers.9…0 ×10, Schicht für 层")
    'layers.9~0 x10, Schicht f?r ??'
    """
    text = text.translate({ord("…"): "~", ord("×"): "x", ord("━"): "="})
    return "".join(character if character.isascii() else "?" * cell_len(character) for character in text)


def clean_lines(text: str) -> list[str]:
    """The lines of a text, each cleaned."""
    return [clean(line) for line in text.splitlines()]


def shorten(text: str, width: int) -> str:
    """To `width` cells: the end of a path tells more than its beginning, and each of its parts more than none of it.

    >>> shorten("transformer.h.11.attn.c_attn", 16)
    '….11.attn.c_attn'
    >>> shorten("decoder_block_number_13.self_attention_projection", 20)
    '…umber_13.…rojection'
    """
    if cell_len(text) <= width:
        return text
    head, dot, last = text.rpartition(".")
    if not dot or cell_len(last) < max(width - 8, width // 2):
        return _tail(text, width)
    kept = max(width // 2, width - 1 - cell_len(head))
    return f"{shorten(head, width - 1 - kept)}.{_tail(last, kept)}"


def _tail(text: str, width: int) -> str:
    """The end of a text that is too wide."""
    while text and cell_len(text) > width - 1:
        text = text[1:]
    return f"…{text}"


def padded(text: str, width: int, *, right: bool = False) -> str:
    """Shortened to `width` cells and filled up with blanks, on the left for what stands `right`.

    >>> padded("layers.0", 10) + "|", padded("层.0", 6, right=True)
    ('layers.0  |', '  层.0')
    """
    text = shorten(text, width)
    blanks = " " * (width - cell_len(text))
    return blanks + text if right else text + blanks


def wrapped(text: str, width: int, rest: str = "") -> list[str]:
    """Lines of at most `width` cells, `rest` in front of all but the first; only what is wider than a line is cut.

    >>> wrapped("the gradient of 编码器.块 vanishes", 14)
    ['the gradient', 'of 编码器.块', 'vanishes']
    >>> wrapped("at encoder.block_13.attention", 16, "  ")
    ['at encoder.', '  block_13.', '  attention']
    """
    lines: list[str] = []
    line, room = "", width
    for word in text.split(" "):
        for part in _pieces(word, width - cell_len(rest)):
            joined = f"{line} {part.text}" if line and part.is_first else line + part.text
            if line and cell_len(joined) > room:
                lines.append(line.rstrip())
                line, room = part.text, width - cell_len(rest)
            else:
                line = joined
    lines.append(line)
    return [lines[0], *(rest + each for each in lines[1:])]


class _Piece(NamedTuple):
    text: str
    is_first: bool


def _pieces(word: str, width: int) -> list[_Piece]:
    """The word, or where it is wider than a line its parts: behind points, slashes and low lines, or anywhere."""
    if cell_len(word) <= width:
        return [_Piece(word, True)]
    found = []
    for part in re.findall(r"[^./_]*[./_]?", word):
        while cell_len(part) > width:
            end = next(i for i in range(len(part), 0, -1) if cell_len(part[:i]) <= max(width, 2))
            found.append(part[:end])
            part = part[end:]
        found += [part] if part else []
    return [_Piece(part, i == 0) for i, part in enumerate(found)]


def listed(names: Sequence[str], most: int = 3) -> str:
    """``a, b, c and 17 more``."""
    told = ", ".join(clean(name) or "the model" for name in names[:most])
    return told + (f" and {len(names) - most} more" if len(names) > most else "")


def clipping_told(clipping: tuple[float, float] | None) -> str:
    """How often clipping bites, and how hard; '' where it never does.

    >>> clipping_told((0.83, 0.21))
    'clipping bit in 83 % of the steps and left 0.21 of the norm (median)'
    """
    if clipping is None:
        return ""
    frac, factor = clipping
    return f"clipping bit in {100 * frac:.3g} % of the steps and left {short(factor)} of the norm (median)"
