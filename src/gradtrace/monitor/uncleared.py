"""Has anybody cleared the gradients before a step? A look at all of them is cheap beside a trace, and else a rare one.

Traces may be few, where one is dear: so steps whose number is a power of two are looked at as well, unless the host
would have to wait for a device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.monitor.nonfinite.delayed import is_ahead
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
        self._added_at: int | None = None
        """The step at hand, whose first pass added to what was there."""
        self._has_added = False
        """Whether any did, and none since was found cleared."""

    def wants(self, step: int, *, is_traced: bool) -> bool:
        """Whether to look at a step; there is nothing before the run's first."""
        return step > 0 and (is_traced or (step & (step - 1) == 0 and not self._would_wait))

    @property
    def _would_wait(self) -> bool:
        return any(is_ahead(parameter.device) for parameter in self._watched.parameters)

    def before_backward(self, *, looks: bool) -> None:
        """A pass begins; `looks`: it is the first of a step that is wanted."""
        if self._added_at is not None and not any(self._watched.with_gradient()):
            self._added_at = None  # cleared between two passes of a step: what was added to is gone
        self._held_before = self._watched.with_gradient() if looks else None

    def after_backward(self, step: int) -> None:
        """All that has a gradient after it had one before."""
        before, self._held_before = self._held_before, None
        if before is None:
            return
        came_to = [was for was, has in zip(before, self._watched.with_gradient(), strict=True) if has]
        if came_to and all(came_to):
            self._added_at, self._has_added = step, True
        elif came_to and self._has_added and not any(came_to):
            self._has_added = False
            self._recording.event(step, EventKind.CLEARED, "cleared, as they were not before")

    def step_ended(self) -> None:
        """What was added to has moved the weights."""
        if self._added_at is not None:
            self._recording.event(self._added_at, EventKind.UNCLEARED, "added to the gradients of earlier steps")
            self._added_at = None
