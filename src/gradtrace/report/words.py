"""How are numbers and names written? The same in every renderer."""

from __future__ import annotations

import math
import unicodedata
from typing import TYPE_CHECKING

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
    """``gain -0.65 decades``."""
    value = decades(evidence.value) if evidence.unit.startswith("decades") else short(evidence.value)
    if evidence.unit == "fraction" and math.isfinite(evidence.value):
        value, unit = f"{100 * evidence.value:.3g} %", ""
    else:
        unit = f" {clean(evidence.unit)}" if evidence.unit else ""
    return f"{clean(evidence.name).replace('_', ' ')} {value}{unit}"


def clean(text: str) -> str:
    """Without control characters, line breaks or direction marks: a name cannot move the cursor.

    >>> clean("a[red]b" + chr(27) + "[31m")
    'a[red]b?[31m'
    """
    return "".join("?" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text)


def ascii_text(text: str) -> str:
    """As many characters as before, for terminals that know no others.

    >>> ascii_text("layers.9…0 ×10, Schicht für Schicht")
    'layers.9~0 x10, Schicht f?r Schicht'
    """
    return text.translate({ord("…"): "~", ord("×"): "x"}).encode("ascii", "replace").decode()


def clean_lines(text: str) -> list[str]:
    """The lines of a text, each cleaned."""
    return [clean(line) for line in text.splitlines()]


def shorten(text: str, width: int) -> str:
    """The end of a path tells more than its beginning.

    >>> shorten("transformer.h.11.attn.c_attn", 16)
    '….11.attn.c_attn'
    """
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]


def listed(names: Sequence[str], most: int = 3) -> str:
    """``a, b, c and 17 more``."""
    told = ", ".join(clean(name) or "the model" for name in names[:most])
    return told + (f" and {len(names) - most} more" if len(names) > most else "")
