"""The ranks of one watch: a row comes, a report is given of it, and the row is kept once the ranks' sum has come back.

own_part          what this rank has to say of a step
  data_parallel     which wrappers average gradients and send buffers around
  local_shards      which part of each parameter lies here
  local_gradients   how large this rank's own gradient is
next_stretch      which steps are reported
global_row        what a row says
held_rows         rows wait in their order; where a sum does not come in time, one says what this rank knows by itself
whole_traces      each rank's trace of a step, merged
birthplace        on which rank a NaN was born
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.distributed.apart import Apart
from gradtrace.distributed.correspondence import Correspondence
from gradtrace.monitor.ranks.birthplace import Birthplace
from gradtrace.monitor.ranks.global_row import Columns
from gradtrace.monitor.ranks.held_rows import HeldRows
from gradtrace.monitor.ranks.local_shards import FLAT
from gradtrace.monitor.ranks.next_stretch import NextStretch
from gradtrace.monitor.ranks.own_part import OwnPart
from gradtrace.monitor.ranks.whole_traces import NOT_FINITE, TOO_LATE, WholeTraces

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from gradtrace.distributed.agreement import Agreement
    from gradtrace.distributed.report.merged import Merged
    from gradtrace.distributed.world import World
    from gradtrace.monitor.ranks.global_row import Row
    from gradtrace.monitor.ranks.local_shards import LocalShards
    from gradtrace.monitor.recording.recording import Recording
    from gradtrace.monitor.traces.sampler import Kind
    from gradtrace.monitor.watched import Watched
    from gradtrace.records.finding import Finding
    from gradtrace.records.trace import Trace

CLOSING_S, JOINING_S, WORDS_S = 3.0, 1.0, 1.0
"""[seconds] At the end the last reports are waited for; ranks that have not come yet; and word of where a NaN was
born."""


class Ranks:
    """Called in the training's own thread, and waits for nobody before `close`."""

    def __init__(self, world: World, watched: Watched, recording: Recording, next_step: Callable[[], int]) -> None:
        self.world, self.own = world, OwnPart(watched)
        self._late: NDArray[np.bool_] | None = None
        """By column of the latest report: averaged only after the backward pass."""
        self.stretch = NextStretch(decides=world.reports)
        self._recording, self._next_step = recording, next_step
        self._held = HeldRows(self._record)
        self._traces = WholeTraces(recording, world.size, keeps=world.reports)
        self._step = 0
        """The next one, as of the latest look."""
        self.num_under_way: Callable[[], int] = lambda: 0
        """Rows that have not come from the device yet."""
        self._is_widened = self._is_fault_told = False
        self._apart = Apart()
        if recording.first_step:  # the world may have been another one
            self._note(f"from step {recording.first_step} on {world.size} ranks train together")
        if self.shards.is_flat:
            self._note(FLAT)
        elif self.shards.speaks:
            self._note("ops of the model speak to other ranks (DTensor): no whole traces are taken")
        self._correspondence = Correspondence(
            world,
            watched.columns(),
            lambda: self._step,
            lambda: self.stretch.decide(self._step),
            self._note,
            self.shards.buffers(),
        )
        self._birthplace = Birthplace(recording, self._correspondence, asks=world.reports)
        recording.on_nonfinite = self._came
        self._correspondence.begin()

    @property
    def is_alone(self) -> bool:
        """Whether the others cannot be heard, now and in future."""
        return self._correspondence.fault is not None

    @property
    def shards(self) -> LocalShards:
        """Which part of each parameter lies here."""
        return self.own.shards

    @property
    def reports(self) -> bool:
        """Whether this rank tells of all."""
        return self.world.reports

    @property
    def agreement(self) -> Agreement:
        """Of all ranks, on the steps that are reported."""
        return self.stretch.agreement

    def trace(self, step: int, trace: Trace, kind: Kind) -> None:
        """A whole trace of this rank's: it is kept as soon as the others' have come, or will not come."""
        self._traces.take(step, trace, kind)

    def _came(self, finding: Finding) -> None:
        """The first NaN or Inf, here."""
        self._traces.let_go(NOT_FINITE)
        self._birthplace.came_here(finding)

    # ---------------------------------------------------------------------------------------------------- rows come

    def row(self, row: Row) -> None:
        """A step's numbers are on the host."""
        own = row.step - self._recording.first_step
        self._pass_over(own)
        if not self.is_alone and self.agreement.take(own):
            if self.reports:
                self.stretch.wish_for_more(self._step)
                row.since = time.perf_counter()
            self._correspondence.give(own, self.own.given(row, self._traces.of(row.step)))
        if self.reports:
            self._held.hold(row)
            self._held.release(waits=not self.is_alone)
        else:
            self._record(row)

    def poll(self) -> None:
        """What has come back by now?"""
        self._step = self._next_step()
        if not self.num_under_way():
            self._pass_over(self._step)
        if not self._is_widened and self._correspondence.layout is not None:
            self._is_widened = True
            if self.reports:
                self._recording.widen(self._correspondence.layout.columns, self.shards.num)
                self._tell_versions(self._correspondence.layout.versions)
        for own, merged in self._correspondence.arrived():
            self._arrive(own + self._recording.first_step, merged)
        if self.is_alone and not self._is_fault_told:
            self._is_fault_told = True
            self._tell_fault()
        self._birthplace.hear()
        self._held.release(waits=not self.is_alone)

    def close(self, *, waits: bool = True) -> None:
        """The training is over: what is under way is waited for, not for long."""
        self.poll()
        if waits:
            has_all = self._correspondence.layout is not None
            self._wait(CLOSING_S if has_all else JOINING_S, lambda: not self._correspondence.is_idle)
            self._wait(WORDS_S, lambda: self._birthplace.is_asked_for and not self.is_alone)
        self._correspondence.abandon()
        self._held.release(waits=False)
        self._traces.let_go(TOO_LATE)

    def _wait(self, within_s: float, is_open: Callable[[], bool]) -> None:
        until = time.monotonic() + within_s
        while is_open() and time.monotonic() < until:
            time.sleep(0.005)
            self.poll()
        self.poll()

    def abandon(self) -> None:
        """Let go at once."""
        self.own.stop()
        self._correspondence.abandon()

    def _pass_over(self, step: int) -> None:
        for _ in range(self.agreement.pass_over(step)):
            self._correspondence.give(step, None)

    # -------------------------------------------------------------------------------------------- reports come back

    def _arrive(self, step: int, merged: Merged) -> None:
        self.stretch.report_is_back(self._step, merged.decision)
        if not self.reports:
            return
        self._held.merged(step, merged)
        if merged.num_bad:
            self._birthplace.came_elsewhere()
        if merged.is_complete:
            self._late = merged.late
            buffers = self._correspondence.layout.buffers if self._correspondence.layout is not None else ()
            for sentence in self._apart.look(step, merged, self._recording.names, buffers):
                self._recording.note(step, sentence)
            if merged.slots is not None:
                self._recording.ranks(step, merged.slots, self.own.layers)
            if merged.largest is not None and merged.zeros is not None and merged.nonfinite is not None:
                self._recording.entries(step, merged.largest, merged.zeros, merged.nonfinite)

    def _record(self, row: Row) -> None:
        self._traces.settle(row.step, row.merged, is_agreed=not math.isnan(row.since))
        layout, merged = self._correspondence.layout if self._is_widened else None, row.merged
        num_foreign = len(layout.columns) - self.shards.num if layout is not None else 0
        columns = Columns(self.shards.num, num_foreign, self.shards.is_part, self._late)
        if merged is not None and merged.is_complete:
            arrived, is_whole, bad = columns.of_all(row.arrived, merged), True, row.bad or merged.num_bad > 0
        else:
            arrived, is_whole = columns.of_this(row.arrived)
            bad = row.bad
        self._recording.numbers(
            row.step, row.seconds, arrived, row.learning_rate, counts=row.counts, bad=bad, is_whole=is_whole
        )

    def _note(self, sentence: str) -> None:
        if self.reports:
            self._recording.note(self._step + self._recording.first_step, sentence)

    def _tell_versions(self, versions: Sequence[tuple[int, str]]) -> None:
        if len(versions) > 1:
            told = ", ".join(f"{version} on rank {rank}" for rank, version in versions)
            self._note(f"ranks do not run the same torch: {told}")

    def _tell_fault(self) -> None:
        what = "norms of sharded parameters are not known" if self.shards.holds_parts else "its own numbers are shown"
        self._note(f"{self._correspondence.fault}: rank 0 reports alone from here on, {what}")
