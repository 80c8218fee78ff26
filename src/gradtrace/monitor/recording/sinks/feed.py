"""Which numbers are sent to the sinks, and how often, so that they cost next to nothing?

The numbers of the step as a whole (loss, norms, learning rate) are sent at every step; those of each parameter, of
which there may be thousands, as often as a small share of the time allows, the first step always; histograms whenever a
whole trace was taken.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from gradtrace.monitor.recording.sinks.sink import PREFIX, Log2Histogram
from gradtrace.records.run import Scalar, Series

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from gradtrace.monitor.recording.sinks.sink import Sink
    from gradtrace.records.finding import Finding
    from gradtrace.records.trace import Trace

_PARAMETERS_FRAC = 0.005
"""[fraction of the time] For the numbers of single parameters: a quarter of the default budget."""


class Feed:
    """Sends to all sinks; one that raises is named once by `warn` and left out from then on."""

    def __init__(self, sinks: Sequence[Sink], warn: Callable[[str], None]) -> None:
        self._sinks, self._warn = list(sinks), warn
        self._begun = time.perf_counter()
        self._spent_s = 0.0

    def __bool__(self) -> bool:
        return bool(self._sinks)

    def step(
        self, step: int, names: Sequence[str], scalars: Sequence[float], series: NDArray[np.float32] | None
    ) -> None:
        """One step: `scalars` [len(Scalar)] and `series` [len(Series), len(names)]; NaN is left out."""
        values = {f"{PREFIX}{name}": float(value) for name, value in zip(Scalar, scalars, strict=True)}
        self._send(lambda sink: sink.scalars(step, _measured(values)))
        if series is None or not self._affords_parameters():
            return
        begun = time.perf_counter()
        rows = zip(Series, series.tolist(), strict=True)
        each = {f"{PREFIX}{kind}/{name}": v for kind, row in rows for name, v in zip(names, row, strict=True)}
        self._send(lambda sink: sink.scalars(step, _measured(each)))
        self._spent_s += time.perf_counter() - begun

    def trace(self, step: int, trace: Trace) -> None:
        """The sizes of each parameter's gradient."""
        for parameter in trace.parameters:
            if parameter.gradient is not None and parameter.gradient.log2_counts:
                histogram = Log2Histogram(tuple(sorted(parameter.gradient.log2_counts)))
                name = f"{PREFIX}log2_gradient/{parameter.name}"
                self._send(lambda sink, name=name, histogram=histogram: sink.histogram(step, name, histogram))  # type: ignore[misc]

    def finding(self, step: int, finding: Finding) -> None:
        """What was found, when it is found."""
        name = f"{PREFIX}finding/{finding.symptom.value}"
        self._send(lambda sink: sink.text(step, name, f"{finding.severity.value}: {finding.message}"))

    def close(self) -> None:
        """Close every sink; more than once does no harm."""
        self._send(lambda sink: sink.close())
        self._sinks.clear()

    def _affords_parameters(self) -> bool:
        return self._spent_s <= _PARAMETERS_FRAC * (time.perf_counter() - self._begun)

    def _send(self, send: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                send(sink)
            except Exception as error:
                self._sinks.remove(sink)
                self._warn(f"{type(sink).__name__} is left out from now on: {type(error).__name__}: {error}")


def _measured(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if not math.isnan(value)}
