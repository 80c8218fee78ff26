"""Which steps of a training are traced whole, and what became of that?

A sample is open from the first call of a step to its first backward pass; most steps have none.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from gradtrace.monitor.traces.sample import Sample
from gradtrace.tape.private import anything_compiled

if TYPE_CHECKING:
    from torch import Tensor

    from gradtrace.monitor.recording.recording import Logbook
    from gradtrace.monitor.schedule.budget import Budget
    from gradtrace.monitor.watched import Watched
    from gradtrace.records.trace import Trace


class Sampling:
    """Steps are numbered from 0 at the beginning of this run of the script."""

    def __init__(self, watched: Watched, logbook: Logbook, budget: Budget) -> None:
        self._watched, self._logbook, self._budget = watched, logbook, budget
        self._sample: Sample | None = None
        self._usual_spans: deque[float] = deque(maxlen=9)
        self._thread = threading.get_ident()
        """Of the latest backward pass: the tape is recorded only where it is walked as well."""

    def begin(self, step: int, *, is_urgent: bool) -> None:
        """A step begins; it is traced where the budget and the model allow."""
        if self._sample is not None or not self._budget.may_trace(step, is_urgent=is_urgent):
            return
        begun = time.perf_counter()
        why_not = self._why_not()
        if not why_not:
            self._sample = Sample(self._watched.whole)
            return
        self._logbook.note(self._logbook.first_step + step, why_not)
        self._budget.spend("trace", time.perf_counter() - begun, step)  # and it is long before that is asked again

    def entered(self, args: Any, kwargs: Any) -> None:
        """A watched module is called."""
        if self._sample is not None and threading.get_ident() == self._thread:
            self._sample.entered(args, kwargs)

    def left(self) -> None:
        """It returned, or raised."""
        if self._sample is not None and threading.get_ident() == self._thread:
            self._sample.left()

    def end_forward(self) -> None:
        """``loss.backward`` was called."""
        if self._sample is not None:
            self._sample.end_forward()

    def before_backward(self, loss: Tensor, create_graph: bool) -> None:
        """The tape is whole."""
        self._thread = threading.get_ident()
        if self._sample is not None and not create_graph:
            self._sample.before_backward(loss)

    def after_backward(self, scale: Tensor | None, span_s: float, step: int) -> Trace | None:
        """The trace, if this pass had one; `span_s` went since the first call of the step."""
        if self._sample is None:
            self._usual_spans.append(span_s)
            return None
        trace = self._sample.after_backward(scale)
        if trace is not None:
            slower = span_s - statistics.median(self._usual_spans) if self._usual_spans else 0.0
            self._budget.spend("trace", max(slower, 0.0), step)  # in hooks, between the user's own ops
            self.end(step)  # one backward pass is enough, however many the step has
        return trace

    def end(self, step: int) -> None:
        """No sample is open any longer."""
        if self._sample is not None:
            self._sample.close()
            self._budget.spend("trace", self._sample.seconds, step)
            self._sample = None

    def abandon(self) -> None:
        """The same, where its time does not matter."""
        if self._sample is not None:
            self._sample.close()
            self._sample = None

    def _why_not(self) -> str:
        """Why no step can be traced; empty where one can."""
        if self._watched.compiled:
            return "a model is compiled: norms are taken, whole traces are not"
        if anything_compiled():
            return "functions are compiled: no whole traces are taken, they would compile again"
        return "parts are scripted (torch.jit): no whole traces are taken" if self._watched.scripted else ""
