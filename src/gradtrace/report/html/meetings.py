"""Where ways meet, which is the skip and which the branch?

A way is a skip where it comes straight from a stretch that another of the arriving ways has come through by others:
the sum of a block x + f(x) hands the gradient to the branch f and, past it, to x. Without such a way (both sides of a
projected shortcut) they are branches alike, and have no name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.report.html.ways import Way

SKIP, BRANCH = "skip", "branch"


def named(found: Sequence[Way]) -> list[Way]:
    """The same ways; where they have no role yet and meet at a skip, 'skip' or 'branch'."""
    before = _before(found)
    arriving: dict[int, list[Way]] = {}
    for way in found:
        arriving.setdefault(way.target, []).append(way)
    return [replace(way, role=way.role or _role(way, arriving[way.target], before)) for way in found]


def _role(way: Way, arriving: Sequence[Way], before: dict[int, int]) -> str:
    others = [other for other in arriving if other.source != way.source]
    if any(_has_passed(other, way, before) for other in others):
        return SKIP
    return BRANCH if any(_has_passed(way, other, before) for other in others) else ""


def _has_passed(way: Way, source_of: Way, before: dict[int, int]) -> bool:
    return bool(before.get(way.source, 0) >> source_of.source & 1)


def _before(found: Sequence[Way]) -> dict[int, int]:
    """Per stretch, those that its gradient has come through, as bits; stretches are in the order of the pass."""
    before: dict[int, int] = {}
    for way in sorted(found, key=lambda way: way.target):
        before[way.target] = before.get(way.target, 0) | before.get(way.source, 0) | 1 << way.source
    return before
