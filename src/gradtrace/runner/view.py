"""How does the run show while the script runs? A moving picture on a terminal, a line now and then elsewhere.

Either is drawn by a thread of its own, as often as `_SHARE` of the time allows, from a snapshot of the run.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from gradtrace.report.live import draw_live, summary, told
from gradtrace.runner.screen import Screen, place_on
from gradtrace.runner.speech import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.records.run import Run
    from gradtrace.runner.screen import Place

_PICTURE_EVERY_S, _LINE_EVERY_S, _LOOK_EVERY_S = 0.5, 30.0, 2.0
_SHARE = 0.01
"""[fraction of the time] Half the default budget, and only where somebody looks."""


def open_view(snapshot: Callable[[], Run], *, live: bool | None) -> View:
    """A picture where stderr is a terminal with room for it and `live` is not False; lines otherwise."""
    descriptor = _terminal() if live is not False else None
    if descriptor is not None and (place := place_on(descriptor)) is not None:
        return PictureView(snapshot, Screen(descriptor, place), place)
    return LineView(snapshot)


class View:
    """A thread that looks at the run again and again."""

    def __init__(self, snapshot: Callable[[], Run], every_s: float) -> None:
        self._snapshot, self._every_s = snapshot, every_s
        self._owner = os.getpid()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._look_again, name="gradtrace-view", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look a last time, and stop."""
        self._closing.set()
        self._thread.join()

    def forget(self) -> None:
        """In a forked process, where the thread is not."""

    def show(self, run: Run) -> None:
        """One look."""
        raise NotImplementedError

    def _look_again(self) -> None:
        pause_s = 0.0
        while not self._closing.wait(pause_s):
            begun = time.perf_counter()
            try:
                self.show(self._snapshot())
            except Exception:  # a picture is not worth a warning, still less a training
                return
            pause_s = max(self._every_s, (time.perf_counter() - begun) / _SHARE)


class PictureView(View):
    """On the terminal's last lines."""

    def __init__(self, snapshot: Callable[[], Run], screen: Screen, place: Place) -> None:
        from rich.console import Console

        self._screen = screen
        self._place: Place | None = place
        self._console = Console(file=io.StringIO(), force_terminal=True, color_system=_colours(), width=1000)
        super().__init__(snapshot, _PICTURE_EVERY_S)

    def show(self, run: Run) -> None:
        """Draw it, unless the terminal has become too small."""
        if self._place is None:
            self._closing.set()
            return
        looks = {"ascii_only": not _writes_unicode(), "in_colour": self._console.color_system is not None}
        lines = draw_live(run, self._place.width, self._place.height, **looks)
        with self._console.capture() as captured:
            for line in lines:
                self._console.print(line, soft_wrap=True, highlight=False, markup=False)
        self._place = self._screen.draw(captured.get().split("\n"))

    def close(self) -> None:
        """Give the lines back."""
        super().close()
        self._screen.close()

    def forget(self) -> None:
        """The lines are the parent's."""
        self._screen.forget()


class LineView(View):
    """Each finding when it comes, and where the run is, every half minute."""

    def __init__(self, snapshot: Callable[[], Run]) -> None:
        self._told: set[tuple[str, ...]] = set()
        self._last = time.monotonic()
        super().__init__(snapshot, _LOOK_EVERY_S)

    def show(self, run: Run) -> None:
        """Say what is new."""
        for finding in run.findings:
            key = (finding.symptom, finding.cause, *finding.where)
            if key not in self._told:
                self._told.add(key)
                say(told(finding).plain)
        if time.monotonic() - self._last >= _LINE_EVERY_S:
            self._last = time.monotonic()
            say(summary(run))


def _terminal() -> int | None:
    """The descriptor of stderr if it is a terminal that understands more than text."""
    try:
        descriptor = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return None
    return descriptor if os.isatty(descriptor) and os.environ.get("TERM", "dumb") != "dumb" else None


def _colours() -> Any:
    from rich.console import Console

    console = Console(stderr=True)
    return None if console.no_color else console.color_system


def _writes_unicode() -> bool:
    return (sys.stderr.encoding or "").lower().replace("-", "") == "utf8"
