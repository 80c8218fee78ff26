"""Has anybody cleared the gradients before a step? At steps that are traced, where a look at all of them is cheap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.records.run import EventKind

if TYPE_CHECKING:
    from gradtrace.monitor.recording.recording import Recording
    from gradtrace.monitor.watched import Watched


class Uncleared:
    """Tells the recording of each step whose first backward pass adds to the gradients of earlier ones."""

    def __init__(self, watched: Watched, recording: Recording) -> None:
        self._watched, self._recording = watched, recording
        self._held_before: list[bool] | None = None
        """Which parameters of optimizers held a gradient before the pass at hand; None: nobody has looked."""

    def before_backward(self, *, looks: bool) -> None:
        """A pass begins; `looks`: it is the first of a step, which is traced and not the run's first."""
        self._held_before = self._watched.with_gradient() if looks else None

    def after_backward(self, step: int) -> None:
        """All that has a gradient after it had one before."""
        before, self._held_before = self._held_before, None
        if before is None:
            return
        came_to = [was for was, has in zip(before, self._watched.with_gradient(), strict=True) if has]
        if came_to and all(came_to):
            self._recording.event(step, EventKind.UNCLEARED, "added to the gradients of earlier steps")
