"""What is known of the run so far, kept, sent on and judged: the run's file, the sinks, the findings."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gradtrace.diagnosis.judge import judge
from gradtrace.diagnosis.moved import limits_of, weigh
from gradtrace.diagnosis.ranking import rank
from gradtrace.diagnosis.timeline.beginning import beginning, clear_before
from gradtrace.diagnosis.timeline.distance import still_far_off
from gradtrace.diagnosis.timeline.factors import with_factors
from gradtrace.diagnosis.timeline.judge import judge_run
from gradtrace.diagnosis.timeline.traces import birth_in_time, in_time, in_units_of
from gradtrace.monitor.recording.sinks.choice import as_sink
from gradtrace.monitor.recording.sinks.feed import Feed
from gradtrace.monitor.statistics.gradients import row
from gradtrace.records.exhibit import Exhibit
from gradtrace.records.finding import Diagnosis
from gradtrace.records.run import EventKind, RunEvent, Scalar, Series
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.runs.ranks import SAID
from gradtrace.runs.writer import RunWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from gradtrace.diagnosis.moved import Moved
    from gradtrace.monitor.statistics.transfer import Arrived
    from gradtrace.monitor.traces.sampler import Kind
    from gradtrace.records.exhibit import OptimizerStats
    from gradtrace.records.finding import Finding
    from gradtrace.records.run import Run, RunHeader, WatchCost, WatchedParameter
    from gradtrace.records.trace import Op, Trace

MOST_TRACES = 8
"""Whole traces kept in memory: the first, and the latest."""

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
        self._moved, self._limits = moved, limits_of(moved)
        self._writer = RunWriter(path, header, warn=warn)
        self._feed = Feed([as_sink(sink, header.title) for sink in sinks], warn)
        self.first_step = self._writer.next_step
        self.traces: list[Trace] = []
        self._nonfinite: Finding | None = None
        self._in_parameter = False
        """Whether it was in a weight before its step began."""
        self._of_first: tuple[Finding, ...] | None = None
        """Of the trace of the run's first step; None: there is none."""
        self._of_trace: dict[Kind, tuple[Finding, ...]] = {}
        """Of the latest whole trace of each kind of pass, since the step of the first trace in a row that shows it."""
        self._unjudged: list[tuple[int, Trace, Kind]] = []
        self._places: list[tuple[int, Kind]] = []
        """Step and kind of `traces`."""
        self._traced: dict[Kind, list[int]] = {}
        """By kind, the steps of the whole traces that were judged."""
        self._told: set[Key] = set()
        self._foreign: tuple[WatchedParameter, ...] = ()
        """Parameters that only other ranks hold, as columns from `_num_own` on."""
        self._num_own = 0
        self.copies: tuple[str, ...] = ()
        """Weights whose units are copies of one another, by the latest trace."""
        self.on_nonfinite: Callable[[Finding], None] = lambda finding: None
        """Told of the first NaN or Inf."""
        if self.first_step:
            self.event(self.first_step, EventKind.RESUMED, "the file was opened again")

    @property
    def run(self) -> Run:
        """The run so far, as records."""
        return self._writer.snapshot()

    @property
    def trace_steps(self) -> tuple[int, ...]:
        """The step of each of `traces`."""
        return tuple(step for step, _ in self._places)

    @property
    def latest_ops(self) -> tuple[Op, ...]:
        """Of the latest whole trace of a training step."""
        return self.traces[-1].ops if self.traces else ()

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
        self._unjudged.append((step, trace, kind))
        self._places.append((step, kind))
        self.traces.append(trace)
        if len(self.traces) > MOST_TRACES:
            del self.traces[1], self._places[1]
        self._writer.trace(step, trace)
        self.event(step, EventKind.SAMPLE)
        self._feed.trace(step, trace)

    def nonfinite(self, step: int, finding: Finding, trace: Trace | None) -> None:
        """The first NaN or Inf, explained: a run may end with it, so that it goes to the file at once."""
        self._nonfinite = finding
        self.on_nonfinite(finding)
        if trace is not None:
            self._in_parameter = trace.nonfinite is not None and trace.nonfinite.phase == "parameter"
            self.trace(step, trace)
        self.event(step, EventKind.NONFINITE, finding.message)
        self.judge(step)
        self._writer.flush()

    def born_elsewhere(self, rank: int, finding: Finding) -> None:
        """The first NaN or Inf came from another rank, which knows more of it."""
        step = self.first_step + (finding.step or 0)
        told = finding.message.replace(f"At step {finding.step}", f"At step {step}", 1)
        message = f"On rank {rank}: {told}"
        self._nonfinite = replace(finding, message=message, step=step)
        self._in_parameter = False
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

    def belongs_to(self, step: int, instead_of: int) -> None:
        """The step that was taken for `instead_of` has turned out to be `step`."""
        found = self._nonfinite
        if found is not None and found.step == instead_of:
            message = found.message.replace(f"At step {instead_of}", f"At step {step}", 1)
            self._nonfinite = replace(found, step=step, message=message)

    def cost(self, cost: WatchCost) -> None:
        """What watching has taken so far."""
        self._writer.cost(cost)

    @property
    def is_explained(self) -> bool:
        """Whether the first NaN or Inf has come."""
        return self._nonfinite is not None

    def judge(self, step: int) -> tuple[Finding, ...]:
        """What is wrong by now; it goes to the file, and what is new to the sinks."""
        found = self.findings()
        self._writer.findings(found)
        for finding in found:
            if key_of(finding) not in self._told:
                self._told.add(key_of(finding))
                self._feed.finding(step, finding)
        return found

    def findings(self) -> tuple[Finding, ...]:
        """Over time, and in the latest whole trace; the birthplace of the first NaN in place of its mere onset."""
        run = self.run
        found = judge_run(run)
        self._judge_traces(run)
        for kind in self._of_trace or [frozenset()]:
            found = [with_factors(finding, self._kept(kind)) for finding in found]
        start = beginning(self.traces[0], self._of_first, run) if self._of_first is not None else None
        if self._nonfinite is not None:
            over_time = [f for f in found if f.symptom is Symptom.NONFINITE]
            found = [f for f in found if f not in over_time]
            fast = any(f.cause is Cause.LEARNING_RATE for f in over_time)
            found.insert(0, birth_in_time(self._nonfinite, run, ran_away=fast, in_parameter=self._in_parameter))
        else:
            over_time = list(found)
            for kind, traced in self._traced.items():
                found += [in_time(finding, run, traced, over_time) for finding in self._shown_by(kind)]
        if self._of_first is not None and not any(f.cause is Cause.LEARNING_RATE for f in found if _is_grave(f)):
            found = [*still_far_off(self.traces[0], run), *found]
        if start is not None:
            found = [start.instead(f) if start.explains(run, f) else f for f in found]
            root = start.growth if self._nonfinite is not None else start.scar(run)
            found += [root] if root is not None and root not in found else []
        if self._nonfinite is not None and self._of_first is not None:
            found += clear_before(self._of_first, run, self._nonfinite.step or 0)
        return weigh(rank(found), self._moved)

    def _kept(self, kind: Kind) -> list[tuple[int, Trace]]:
        """The whole traces of one kind in memory, with their steps."""
        kept = zip(self._places, self.traces, strict=False)  # one may be coming in
        return [(step, trace) for (step, its), trace in kept if its == kind]

    def _shown_by(self, kind: Kind) -> Sequence[Finding]:
        """What the latest trace of a kind shows and none of a kind before it."""
        kinds = list(self._of_trace)
        before = {key_of(f) for other in kinds[: kinds.index(kind)] for f in self._of_trace[other]}
        return [finding for finding in self._of_trace[kind] if key_of(finding) not in before]

    def _judge_traces(self, run: Run) -> None:
        """Those that came since the last time: only now is it known what their step's other backward passes brought."""
        waiting, self._unjudged = self._unjudged, []
        learning = _learning(run) if waiting else ()
        for step, trace, kind in waiting:
            if any(bool(other) is not bool(kind) for other in self._of_trace):  # of several kinds since, or no longer
                self._of_trace = {kind: tuple(f for shown in self._of_trace.values() for f in shown)}
                self._traced = {kind: sorted(step for steps in self._traced.values() for step in steps)}
            before = self._of_trace.get(kind, ())
            shown = Exhibit(
                traces=(trace,),
                optimizers=self._header.optimizers,
                learning=learning,
                step=step - self.first_step,
                copies=self.copies,
            )
            self._traced.setdefault(kind, []).append(step)
            seen = judge(shown, limits=self._limits).findings
            found = [in_units_of(run, finding, trace, step) for finding in seen]
            self._of_trace[kind] = tuple(replace(f, step=_since(f, before, step)) for f in found)
            if step == 0:
                self._of_first = self._of_trace[kind]

    def diagnosis(self) -> Diagnosis:
        """The findings, with the first and the latest whole trace: of the kind that the first of them was seen in."""
        findings = self.findings()
        found = {key_of(finding) for finding in findings[:1]}
        guilty = [kind for kind, shown in self._of_trace.items() if found & {*map(key_of, shown)}]
        traces = [trace for _, trace in self._kept(guilty[0])] if guilty else []
        traces = traces or self.traces
        kept = tuple(traces[:1] + traces[1:][-1:])
        return Diagnosis(findings, kept, title=self._header.title, moved=tuple(map(str, self._moved)))

    def close(self, step: int, *, finished: bool) -> None:
        """Judge a last time, write the rest and let go of file and sinks."""
        try:
            self.judge(step)
        finally:
            self._writer.close(finished=finished)
            self._feed.close()


def _is_grave(finding: Finding) -> bool:
    return finding.severity is not Severity.INFO


def _learning(run: Run) -> tuple[str, ...]:
    """Names of the parameters that got a gradient at any step."""
    with np.errstate(invalid="ignore"):
        seen = np.flatnonzero((run.steps.series(Series.GRADIENT_NORM)[1] > 0.0).any(axis=0))
    return tuple(run.header.parameters[i].name for i in seen)


def _since(finding: Finding, before: Sequence[Finding], step: int) -> int | None:
    """The step of `finding`, or of what the trace before showed that goes on in it."""
    earlier = [
        other.step
        for other in before
        if other.symptom is finding.symptom and (other.cause is finding.cause or {*other.where} & {*finding.where})
    ]
    return min((s for s in earlier if s is not None), default=step)


Key = tuple[str, ...]


def key_of(finding: Finding) -> Key:
    """What makes two findings the same one, at another time."""
    return finding.symptom, finding.cause, *finding.where
