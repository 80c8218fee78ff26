"""Where was a NaN born, if not here? Who knows leaves word, and rank 0 asks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gradtrace.monitor.nonfinite.birthplace import is_placed
from gradtrace.records.codec import decode, encode
from gradtrace.records.finding import Finding

if TYPE_CHECKING:
    from gradtrace.distributed.correspondence import Correspondence
    from gradtrace.monitor.recording.recording import Recording

WORD = "nonfinite"
"""Under which ranks leave word of it."""


class Birthplace:
    """Of the first NaN or Inf under this watch."""

    def __init__(self, recording: Recording, correspondence: Correspondence, *, asks: bool) -> None:
        self._recording, self._correspondence, self._may_ask = recording, correspondence, asks
        self.is_asked_for = False
        """Whether one came whose birthplace is not known here, and perhaps elsewhere."""

    def came_here(self, finding: Finding) -> None:
        """Who knows where it was born says so, who does not asks."""
        if is_placed(finding) and not self._may_ask:
            self._correspondence.leave_word(WORD, json.dumps(encode(finding)))
        elif not is_placed(finding):
            self._ask()

    def came_elsewhere(self) -> None:
        """So a report says."""
        if not self._recording.judging.is_explained:
            self._ask()

    def _ask(self) -> None:
        if self._may_ask and not self.is_asked_for and not self._correspondence.heard:
            self.is_asked_for = True
            self._correspondence.ask(WORD)

    def hear(self) -> None:
        """The earliest word, if any has come."""
        if not (self.is_asked_for and self._correspondence.heard):
            return
        found: list[tuple[int, int, Finding]] = []
        for rank, text in self._correspondence.heard.items():
            finding: Finding = decode(Finding, json.loads(text))
            found.append((finding.step or 0, rank, finding))
        _, rank, finding = min(found, key=lambda one: one[:2])
        self.is_asked_for = False
        self._recording.born_elsewhere(rank, finding)
