"""What is known of the run so far, kept and sent on: to the run's file, the sinks, and to the judging of it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gradtrace.diagnosis.timeline.recovery import may_pass
from gradtrace.monitor.recording.judging import Judging, key_of
from gradtrace.monitor.recording.sinks.choice import as_sink
from gradtrace.monitor.recording.sinks.feed import Feed
from gradtrace.monitor.statistics.gradients import row
from gradtrace.records.run import EventKind, RunEvent, Scalar, Series
from gradtrace.runs.ranks import SAID
from gradtrace.runs.writer import RunWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from gradtrace.diagnosis.moved import Moved
    from gradtrace.monitor.recording.judging import Key
    from gradtrace.monitor.statistics.transfer import Arrived
    from gradtrace.monitor.traces.sampler import Kind
    from gradtrace.records.exhibit import OptimizerStats
    from gradtrace.records.finding import Diagnosis, Finding
    from gradtrace.records.run import Run, RunHeader, WatchCost, WatchedParameter
    from gradtrace.records.trace import Op, Trace

_GRADIENT, _LOSS = list(Series).index(Series.GRADIENT_NORM), list(Scalar).index(Scalar.LOSS)
_WHOLE, _CLIPPED = list(Scalar).index(Scalar.GRADIENT_NORM), list(Scalar).index(Scalar.CLIPPED_NORM)


class Recording:
    """One run; nothing in here knows of hooks."""

    def __init__(
        self,
        path: str | Path | None,
        header: RunHeader,
        sinks: Sequence[Any],
        warn: Callable[[str], None],
        moved: Sequence[Moved] = (),
    ) -> None:
        self._header = header
        self._writer = RunWriter(path, header, warn=warn)
        self._feed = Feed([as_sink(sink, header.title) for sink in sinks], warn)
        self.first_step = self._writer.next_step
        self.judging = Judging(self.first_step, moved)
        self._told: set[Key] = set()
        self._foreign: tuple[WatchedParameter, ...] = ()
        """Parameters that only other ranks hold, as columns from `_num_own` on."""
        self._num_own = 0
        self.on_nonfinite: Callable[[Finding], None] = lambda finding: None
        """Told of the first NaN or Inf."""
        if self.first_step:
            self.event(self.first_step, EventKind.RESUMED, "the file was opened again")

    @property
    def run(self) -> Run:
        """The run so far, as records."""
        return self._writer.snapshot()

    @property
    def latest_ops(self) -> tuple[Op, ...]:
        """Of the latest whole trace of a training step."""
        return self.judging.traces[-1].ops if self.judging.traces else ()

    def trained(self, parameters: tuple[WatchedParameter, ...], optimizers: tuple[OptimizerStats, ...]) -> None:
        """Which optimizer holds which parameters is another thing by now; who has lost one stays its last holder."""
        before = self._header.parameters
        if self._foreign:
            parameters = (*parameters[: self._num_own], *self._foreign, *parameters[self._num_own :])
        held = tuple(
            now if now.optimizer is not None or i >= len(before) else before[i] for i, now in enumerate(parameters)
        )
        self._header = replace(self._header, parameters=held, optimizers=optimizers)
        self._writer.header(self._header)

    def widen(self, parameters: tuple[WatchedParameter, ...], num_own: int) -> None:
        """All ranks together watch these, of which this one holds the first `num_own`."""
        foreign = parameters[num_own:]
        if foreign:
            known = self._header.parameters
            self._foreign, self._num_own = foreign, num_own
            self._header = replace(self._header, parameters=(*known[:num_own], *foreign, *known[num_own:]))
            self._writer.header(self._header)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(parameter.name for parameter in self._header.parameters)

    @property
    def is_matrix(self) -> NDArray[np.bool_]:
        """By column: whether it is no vector, as a bias is."""
        return np.array([len(parameter.shape) > 1 for parameter in self._header.parameters], bool)

    def note(self, step: int, sentence: str) -> None:
        """What a reader must know of the whole run."""
        self._writer.note(step, sentence)

    def event(self, step: int, kind: EventKind, message: str = "") -> None:
        """Something that happened."""
        self._writer.event(RunEvent(step, kind, message))

    def numbers(
        self,
        step: int,
        time_s: float,
        arrived: Arrived,
        learning_rate: float,
        *,
        counts: bool,
        bad: bool,
        is_whole: bool = True,
    ) -> None:
        """A step's vectors have arrived; `counts`: a NaN or Inf among them is none of a scaler that finds its scale.

        `is_whole`: the parameters that are known are all there are.
        """
        scalars, series = row(arrived, learning_rate, len(self._header.parameters))
        if not is_whole:
            scalars[_WHOLE] = scalars[_CLIPPED] = None
        loss = scalars[_LOSS]
        if not counts and loss is not None and not math.isfinite(loss):
            loss = scalars[_LOSS] = None
        is_odd = (loss is not None and not math.isfinite(loss)) or bool(np.isinf(series[_GRADIENT]).any())
        self._writer.append(step, time_s, scalars, series, nonfinite=bad or (counts and is_odd))
        if self._feed:
            names = [parameter.name for parameter in self._header.parameters][: series.shape[1]]
            self._feed.step(step, names, [math.nan if v is None else v for v in scalars], series)

    def trace(self, step: int, trace: Trace, kind: Kind = frozenset()) -> None:
        """A whole trace, and of which kind of pass, where a training has several."""
        self.judging.trace(step, trace, kind)
        self._writer.trace(step, trace)
        self.event(step, EventKind.SAMPLE)
        self._feed.trace(step, trace)

    def nonfinite(self, step: int, finding: Finding, trace: Trace | None) -> None:
        """The first NaN or Inf, explained: a run may end with it, so that it goes to the file at once."""
        self.judging.nonfinite(finding, trace)
        self.on_nonfinite(finding)
        if trace is not None:
            self.trace(step, trace)
        self.event(step, EventKind.NONFINITE, finding.message)
        self.judge(step)
        self._writer.flush()

    def born_elsewhere(self, rank: int, finding: Finding) -> None:
        """The first NaN or Inf came from another rank, which knows more of it."""
        step = self.first_step + (finding.step or 0)
        told = finding.message.replace(f"At step {finding.step}", f"At step {step}", 1)
        message = f"On rank {rank}: {told}"
        self.judging.nonfinite(replace(finding, message=message, step=step), None)
        self.event(step, EventKind.NONFINITE, message)
        self.judge(step)
        self._writer.flush()

    def ranks(self, step: int, said: NDArray[np.float64], layers: Sequence[int]) -> None:
        """What each rank says of itself; behind that, of the parameters in the columns `layers`, if there is room."""
        num = len(SAID)
        columns = tuple(layers) if said.shape[1] > num else ()
        self._writer.ranks(step, said[:, : num + len(columns)], columns)

    def entries(
        self, step: int, largest: NDArray[np.float32], zeros: NDArray[np.float64], nonfinite: NDArray[np.float64]
    ) -> None:
        """Of the gradient of each of the first columns: its largest entry, and how many are zero, and not finite."""
        numel = np.array([math.prod(one.shape) for one in self._header.parameters[: len(zeros)]], np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            self._writer.entries(step, np.stack([largest, zeros / numel, nonfinite / numel]).astype(np.float32))

    def cost(self, cost: WatchCost) -> None:
        """What watching has taken so far."""
        self._writer.cost(cost)

    def judge(self, step: int, *, is_last: bool = False) -> tuple[Finding, ...]:
        """What is wrong, and may not pass with the next steps; it goes to the file, and what is new to the sinks."""
        run = self.run
        found = tuple(f for f in self.judging.findings(run) if is_last or not may_pass(f, run))
        self._writer.findings(found)
        for finding in found:
            if key_of(finding) not in self._told:
                self._told.add(key_of(finding))
                self._feed.finding(step, finding)
        return found

    def findings(self) -> tuple[Finding, ...]:
        """What is wrong by now, the gravest first."""
        return self.judging.findings(self.run)

    def diagnosis(self) -> Diagnosis:
        """The findings, with the first and the latest whole trace."""
        return self.judging.diagnosis(self.run)

    def close(self, step: int, *, finished: bool) -> None:
        """Judge a last time, write the rest and let go of file and sinks."""
        self._writer.finished = finished
        try:
            self.judge(step, is_last=True)
        finally:
            self._writer.close(finished=finished)
            self._feed.close()
