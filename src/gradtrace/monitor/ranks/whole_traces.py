"""Whole traces of this rank: each is kept once it is known whether it can stand for all ranks, merged with theirs."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradtrace.distributed.report.merged import Merged
    from gradtrace.monitor.recording.recording import Recording
    from gradtrace.monitor.traces.sampler import Kind
    from gradtrace.records.trace import Trace

OWN = "of rank 0 alone, on its share of the batch: {}"

NOT_AGREED = "the other ranks did not trace this step"
TOO_LATE = "the other ranks' traces did not come"
NOT_FINITE = "something was not finite before the other ranks' traces came"
NOT_ALIKE = "the ranks did not run the same ops"


class WholeTraces:
    """Of one rank; `keeps`: it tells of all."""

    def __init__(self, recording: Recording, num_ranks: int, *, keeps: bool) -> None:
        self._recording, self._num_ranks, self._keeps = recording, num_ranks, keeps
        self._held: deque[tuple[int, Trace, Kind]] = deque()

    def take(self, step: int, trace: Trace, kind: Kind = frozenset()) -> None:
        """One was taken, of a pass of this kind."""
        self._held.append((step, trace, kind))

    def of(self, step: int) -> Trace | None:
        """What this rank has to give."""
        return next((trace for number, trace, _ in self._held if number == step), None)

    def settle(self, step: int, merged: Merged | None, *, is_agreed: bool) -> None:
        """Nothing more comes of steps up to this one; `merged` is what came of it."""
        while self._held and self._held[0][0] <= step:
            number, own, kind = self._held.popleft()
            came = merged if number == step else None
            if came is not None and came.trace is not None:
                self._keep(number, came.trace, kind)
            else:
                why = self._why(came) if is_agreed or came is not None else NOT_AGREED
                self._keep(number, _alone(own, why), kind)

    def let_go(self, why: str) -> None:
        """Nothing is waited for any longer."""
        while self._held:
            step, own, kind = self._held.popleft()
            self._keep(step, _alone(own, why), kind)

    def _keep(self, step: int, trace: Trace, kind: Kind) -> None:
        if self._keeps:
            self._recording.trace(step, trace, kind)

    def _why(self, merged: Merged | None) -> str:
        if merged is None:
            return TOO_LATE
        if merged.num_traced < self._num_ranks:
            return f"{merged.num_traced} of {self._num_ranks} ranks traced this step"
        return TOO_LATE if merged.is_alike else NOT_ALIKE


def _alone(trace: Trace, why: str) -> Trace:
    coverage = replace(trace.coverage, notes=(*trace.coverage.notes, OWN.format(why)))
    return replace(trace, coverage=coverage)
