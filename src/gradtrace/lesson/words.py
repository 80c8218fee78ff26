"""How are numbers written in the lesson's sentences? As on a blackboard; `static/chapter.js` writes them alike."""

from __future__ import annotations

import math

from gradtrace.report import words

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float) -> str:
    """To two or three digits.

    >>> [number(x) for x in (0.25, 20, 0.0, 9.13e-9, 65504.0)]
    ['0.25', '20', '0', '9.1 × 10⁻⁹', '6.6 × 10⁴']
    """
    if value == 0 or not math.isfinite(value) or 0.01 <= abs(value) < 1e4:
        return words.short(value)
    return ("−" if value < 0 else "") + factor(math.log10(abs(value)))


def exact(value: float) -> str:
    """A setting, as it can be typed.

    >>> exact(10.15), exact(1.0)
    ('10.15', '1')
    """
    return f"{value:g}"


def factor(log10: float) -> str:
    """10 to this many decades, as a number.

    >>> [factor(x) for x in (-0.301, -12.0, 17.998)]
    ['0.5', '1 × 10⁻¹²', '1 × 10¹⁸']
    """
    if not math.isfinite(log10) or abs(log10) < 2:
        return words.short(10.0**log10)
    whole = math.floor(log10)
    digits = float(f"{10 ** (log10 - whole):.2g}")
    digits, whole = (1.0, whole + 1) if digits == 10 else (digits, whole)
    return f"{digits:g} × 10{str(whole).translate(_RAISED)}"


def decades(value: float) -> str:
    """A change in decades, with its sign.

    >>> decades(-11.99), decades(0.57)
    ('−12.0', '+0.57')
    """
    return words.decades(value).replace("-", "−")


def lost(value: float) -> str:
    """How many decades are lost or gained, without the sign.

    >>> lost(-11.99)
    '12.0'
    """
    return words.decades(abs(value)).removeprefix("+")


def percent(frac: float) -> str:
    """A share.

    >>> percent(0.123456)
    '12.3 %'
    """
    return f"{number(100 * frac)} %"
