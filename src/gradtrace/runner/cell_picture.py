"""What is seen of a run below the cell that trains: one picture, drawn anew in its own place."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from gradtrace.report.live import summary
from gradtrace.report.notebook import run_html
from gradtrace.runner.view import View

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.records.run import Run

_EVERY_S = 1.0


class CellPicture:
    """An output of the cell; a notebook keeps the last picture only."""

    def __init__(self, publish: Callable[..., object]) -> None:
        self._publish = publish
        self._transient = {"display_id": uuid.uuid4().hex}
        self._is_there = False

    def draw(self, run: Run, *, findings: bool) -> None:
        """In its place; a line of text for frontends without pictures."""
        bundle = {"text/html": run_html(run, findings=findings), "text/plain": summary(run)}
        self._publish(bundle, {}, transient=self._transient, update=self._is_there)
        self._is_there = True


class CellView(View):
    """The run so far, now and then, with what was found in it."""

    def __init__(self, snapshot: Callable[[], Run], picture: CellPicture) -> None:
        self._picture = picture
        super().__init__(snapshot, _EVERY_S)

    def show(self, run: Run) -> None:
        """One look."""
        self._picture.draw(run, findings=True)
