"""What is wrong with the run by now? The numbers over time, the latest whole trace of each kind of pass, the first NaN.

A trace is judged once, when it has come in; what became of it since is asked anew each time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.besides import with_masks
from gradtrace.diagnosis.judge import judge
from gradtrace.diagnosis.moved import limits_of, weigh
from gradtrace.diagnosis.ranking import rank
from gradtrace.diagnosis.thresholds import EFFECT_FRAC, FOLLOWED_STEPS
from gradtrace.diagnosis.timeline.alike import look_alike
from gradtrace.diagnosis.timeline.beginning import beginning, clear_before, raw_inputs, squared_away
from gradtrace.diagnosis.timeline.constant import measured_share, no_better, no_further, of_best_constant
from gradtrace.diagnosis.timeline.distance import still_far_off
from gradtrace.diagnosis.timeline.drowned import drowned
from gradtrace.diagnosis.timeline.factors import with_factors
from gradtrace.diagnosis.timeline.held import held
from gradtrace.diagnosis.timeline.judge import judge_run
from gradtrace.diagnosis.timeline.learnt import beside_constant, is_no_better
from gradtrace.diagnosis.timeline.losses import followed
from gradtrace.diagnosis.timeline.odd_batch import odd_batch
from gradtrace.diagnosis.timeline.pace import too_slow
from gradtrace.diagnosis.timeline.recovery import is_as_far_behind, is_of_depth, with_recovery
from gradtrace.diagnosis.timeline.traces import birth_in_time, in_time, in_units_of
from gradtrace.records.exhibit import Exhibit
from gradtrace.records.finding import Diagnosis
from gradtrace.records.run import Series
from gradtrace.records.vocabulary import Cause, Severity, Symptom

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.diagnosis.moved import Moved
    from gradtrace.monitor.traces.sampler import Kind
    from gradtrace.records.finding import Finding
    from gradtrace.records.run import Run
    from gradtrace.records.trace import Trace

MOST_TRACES = 8
"""Whole traces kept in memory: the first, and the latest."""

Key = tuple[str, ...]


def key_of(finding: Finding) -> Key:
    """What makes two findings the same one, at another time."""
    return finding.symptom, finding.cause, *finding.where


class Judging:
    """Of one run, whose first step is `first_step`; `moved` are the thresholds that the user has moved."""

    def __init__(self, first_step: int, moved: Sequence[Moved]) -> None:
        self._first_step = first_step
        self._moved, self._limits = moved, limits_of(moved)
        self.traces: list[Trace] = []
        self._places: list[tuple[int, Kind]] = []
        """Step and kind of `traces`."""
        self._num_reached: dict[Kind, int] = {}
        """By kind: parameters with a gradient."""
        self._unjudged: list[tuple[int, Trace, Kind]] = []
        self._traced: dict[Kind, list[int]] = {}
        """By kind, the steps of the whole traces that were judged."""
        self._latest: dict[Kind, tuple[int, Trace]] = {}
        """By kind, the one of them that `_of_trace` is of."""
        self._of_trace: dict[Kind, tuple[Finding, ...]] = {}
        """Of the latest whole trace of each kind of pass, since the step of the first trace in a row that shows it."""
        self._learnt: dict[Kind, tuple[str, ...]] = {}
        """By kind, the parameters that were known to get a gradient when that was judged."""
        self._of_first: tuple[Finding, ...] | None = None
        """Of the trace of the run's first step; None: there is none."""
        self.copies: tuple[str, ...] = ()
        """Weights whose units are copies of one another, by the latest trace."""
        self._nonfinite: Finding | None = None
        self._in_parameter = False
        """Whether it was in a weight before its step began."""

    @property
    def steps(self) -> tuple[int, ...]:
        """The step of each of `traces`."""
        return tuple(step for step, _ in self._places)

    @property
    def is_explained(self) -> bool:
        """Whether the first NaN or Inf has come."""
        return self._nonfinite is not None

    def trace(self, step: int, trace: Trace, kind: Kind) -> None:
        """A whole trace, and of which kind of pass, where a training has several."""
        self._unjudged.append((step, trace, kind))
        reached = sum(parameter.gradient is not None for parameter in trace.parameters)
        self._num_reached[kind] = max(self._num_reached.get(kind, 0), reached)
        self._places.append((step, kind))
        self.traces.append(trace)
        if len(self.traces) > MOST_TRACES:
            del self.traces[1], self._places[1]

    def nonfinite(self, finding: Finding, trace: Trace | None) -> None:
        """The birthplace of the first NaN or Inf, in place of its mere onset."""
        self._nonfinite = finding
        self._in_parameter = trace is not None and trace.nonfinite is not None and trace.nonfinite.phase == "parameter"

    def belongs_to(self, step: int, instead_of: int) -> None:
        """The step that was taken for `instead_of` has turned out to be `step`."""
        found = self._nonfinite
        if found is not None and found.step == instead_of:
            message = found.message.replace(f"At step {instead_of}", f"At step {step}", 1)
            self._nonfinite = replace(found, step=step, message=message)

    def findings(self, run: Run) -> tuple[Finding, ...]:
        """All there are, the gravest first."""
        found = judge_run(run)
        self._judge_traces(run)
        for kind in self._of_trace or [frozenset()]:
            found = [with_factors(finding, self._kept(kind)) for finding in found]
        if self.traces:
            found = [with_masks(finding, self.traces[-1]) for finding in found]
        start = beginning(self.traces[0], self._of_first, run) if self._of_first is not None else None
        if self._nonfinite is not None:
            over_time = [f for f in found if f.symptom is Symptom.NONFINITE]
            found = [f for f in found if f not in over_time]
            fast = any(f.cause is Cause.LEARNING_RATE for f in over_time)
            first = self.traces[0] if self.traces else None
            born = birth_in_time(self._nonfinite, run, ran_away=fast, in_parameter=self._in_parameter, first=first)
            found.insert(0, born)
        else:
            found += self._shown_by_traces(run, list(found))
        if self._of_first is not None and not any(f.cause is Cause.LEARNING_RATE for f in found if _is_grave(f)):
            found = _instead(still_far_off(self.traces[0], run), found)
        if start is not None:
            found = [start.instead(f) if start.explains(run, f) else f for f in found]
            root = start.growth if self._nonfinite is not None else start.scar(run)
            found += [root] if root is not None and root not in found else []
        if start is None and self._of_first is not None and (odd := odd_batch(run, self.traces[0])) is not None:
            found = [odd.instead(f) if odd.explains(run, f) else f for f in found]
        if self._of_first is not None:
            found = _instead(squared_away(self.traces[0], self._of_first, run), found)
        if self._nonfinite is not None and self._of_first is not None:
            found += clear_before(self._of_first, run, self._nonfinite.step or 0)
        if self._of_first is not None and not any(map(_is_grave, found)):
            found += raw_inputs(self.traces[0], run)
        if len(self._latest) == 1 and not any(map(_is_grave, found)):
            kept = self._kept(next(iter(self._latest)))
            slow = too_slow(run, kept)
            seen = look_alike(run, kept) or drowned(run, kept) if not slow else []
            found = _instead(seen, found) + (slow or ([] if seen else held(run, kept)))
        return weigh(rank(found), self._moved)

    def diagnosis(self, run: Run) -> Diagnosis:
        """The findings, with the first and the latest whole trace of the kind that the first of them was seen in.

        Or of that which reaches most parameters: a pass of a single temperature has no layers to show.
        """
        findings = self.findings(run)
        found = {key_of(finding) for finding in findings[:1]}
        guilty = [kind for kind, shown in self._of_trace.items() if found & {*map(key_of, shown)}]
        widest = max(self._places, key=lambda place: self._num_reached.get(place[1], 0), default=(0, frozenset()))[1]
        traces = [trace for _, trace in self._kept(guilty[0] if guilty else widest)] or self.traces
        kept = tuple(traces[:1] + traces[1:][-1:])
        moved = tuple(map(str, self._moved))
        return Diagnosis(findings, kept, refusals=self._not_judged(run, findings), title=run.header.title, moved=moved)

    def _not_judged(self, run: Run, findings: Sequence[Finding]) -> tuple[str, ...]:
        """What gradients that are well do not tell."""
        if any(_is_grave(finding) for finding in findings):
            return ()
        kept = self._kept(next(iter(self._latest))) if len(self._latest) == 1 else []  # of several the loss is a sum
        if kept and measured_share(run, kept) < 1.0 - EFFECT_FRAC:
            return ()  # the losses since the latest trace know better
        told = [no_further([(step - self._first_step, t) for step, t in self._kept(kind)]) for kind in self._latest]
        if kept:
            told.append(no_better(run, kept))
        return tuple(filter(None, told))[:1]

    def _kept(self, kind: Kind) -> list[tuple[int, Trace]]:
        """The whole traces of one kind in memory, with their steps."""
        kept = zip(self._places, self.traces, strict=False)  # one may be coming in
        return [(step, trace) for (step, its), trace in kept if its == kind]

    def _shown_by_traces(self, run: Run, over_time: Sequence[Finding]) -> list[Finding]:
        """What the latest trace of each kind shows, and what became of it, by the numbers of the steps since."""
        found = []
        for kind, traced in self._traced.items():
            step, trace = self._latest[kind]
            kept = self._kept(kind) if len(self._latest) == 1 else []
            share = measured_share(run, kept)
            least = of_best_constant(run, kept)
            for finding in self._shown_by(kind):
                placed = in_time(finding, run, traced, over_time, is_no_better=is_no_better(least))
                recovered = with_recovery(placed, trace, run, step, self._limits.vanishing_decades)
                found.append(beside_constant(recovered, run, share))
        return found

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
                self._latest, self._learnt = {}, {}
            self._traced.setdefault(kind, []).append(step)
            self._latest[kind] = step, trace
            self._of_trace[kind] = self._judged(run, kind, step - self._first_step, learning)
            if step == 0:
                self._of_first = self._of_trace[kind]
        for kind in self._latest:
            self._look_again(kind, run)

    def _look_again(self, kind: Kind, run: Run) -> None:
        """At what got no gradient, and at what an optimizer was expected to even out: the steps since know better."""
        step, trace = self._latest[kind]
        if any(map(_is_cut, self._of_trace[kind])) and self._learnt[kind] != (learnt := _learning(run)):
            anew = [f for f in self._judged(run, kind, step - self._first_step, learnt) if _is_cut(f)]
            self._of_trace[kind] = (*(f for f in self._of_trace[kind] if not _is_cut(f)), *anew)
        expected = [f for f in self._of_trace[kind] if f.severity is Severity.INFO and is_of_depth(f)]
        if step - self._first_step < FOLLOWED_STEPS and expected and is_as_far_behind(trace, run, step):
            now = {key_of(f): f for f in self._judged(run, kind, followed(run), _learning(run)) if is_of_depth(f)}
            self._of_trace[kind] = tuple(now.get(key_of(f), f) for f in self._of_trace[kind])

    def _judged(self, run: Run, kind: Kind, num_steps: int, learning: tuple[str, ...]) -> tuple[Finding, ...]:
        """What the latest trace of a kind shows, of which it is known that it was so `num_steps` into the run."""
        step, trace = self._latest[kind]
        self._learnt[kind] = learning
        before = self._of_trace.get(kind, ())
        shown = Exhibit(
            traces=(trace,),
            optimizers=run.header.optimizers,
            learning=learning,
            step=num_steps,
            copies=self.copies,
        )
        found = (in_units_of(run, finding, trace, step) for finding in judge(shown, limits=self._limits).findings)
        return tuple(replace(f, step=_since(f, before, step)) for f in found)


def _instead(known: Sequence[Finding], found: Sequence[Finding]) -> list[Finding]:
    """`known`, and what of `found` is something else."""
    return [*known, *(finding for finding in found if key_of(finding) not in {*map(key_of, known)})]


def _is_cut(finding: Finding) -> bool:
    return finding.symptom is Symptom.DISCONNECTED


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
