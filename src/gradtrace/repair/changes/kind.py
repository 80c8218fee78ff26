"""What a kind of change consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gradtrace.records.change import Change
from gradtrace.repair.situation import Situation
from gradtrace.repair.twin import Twin


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the table: how it proposes itself, and how it is put into a copy."""

    propose: Callable[[Situation], list[Change]]
    """Changes that fit the findings, the smallest first."""
    apply: Callable[[Change, Twin], None]
    """In place on the twin; raises `RefusalError` with the reason."""
