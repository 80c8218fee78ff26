"""trackio: the local dashboard of Hugging Face; a run of our own."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from gradtrace.monitor.recording.sinks.sink import Sink

if TYPE_CHECKING:
    from collections.abc import Mapping


class TrackioSink(Sink):
    """Logs to a ``trackio.Run``."""

    def __init__(self, run: Any, *, owned: bool = False) -> None:
        self._run, self._owned = run, owned

    @classmethod
    def open(cls, project: str, name: str) -> TrackioSink:
        """A run of our own."""
        import trackio

        return cls(trackio.init(project=project, name=name, embed=False), owned=True)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One row."""
        self._run.log(dict(values), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        """As text in a row."""
        self._run.log({name: text}, step=step)

    def close(self) -> None:
        """End the run, if it is ours."""
        if self._owned:
            with contextlib.redirect_stdout(sys.stderr):  # it says goodbye
                self._run.finish()
