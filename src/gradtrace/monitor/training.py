"""One training, followed from hook to hook: an event comes in, and each room is told what it needs to do its part.

hooks             something happened
forward_backward  a pass, and what is done about it
optimizer_step    a step, and what is done about it
row               which row of the run it belongs to
schedule          how much is done
statistics        the numbers of the row
traces            the step as a whole
nonfinite         where a NaN was born
recording         all of it kept
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from gradtrace.monitor.forward_backward import ForwardBackward
from gradtrace.monitor.hooks.installed import Hooks
from gradtrace.monitor.idle import never_stepped, reached_in
from gradtrace.monitor.optimizer_step import OptimizerStep
from gradtrace.monitor.rooms import Rooms
from gradtrace.monitor.schedule.cost import Level
from gradtrace.records.run import EventKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor
    from torch.amp.grad_scaler import GradScaler
    from torch.optim import Optimizer

    from gradtrace.monitor.hooks.guard import Guard
    from gradtrace.monitor.ranks.ranks import Ranks
    from gradtrace.monitor.recording.recording import Recording
    from gradtrace.monitor.schedule.schedule import Schedule
    from gradtrace.monitor.watched import Watched

JUDGE_EVERY_S = 5.0
"""[seconds] Between two looks for findings while the run goes on."""


class Training:
    """From `begin` to `end`; what is done at each of its steps follows from what the one before it cost."""

    def __init__(
        self,
        watched: Watched,
        recording: Recording,
        schedule: Schedule,
        ranks: Ranks | None,
        *,
        guard: Guard,
        on_nonfinite: str,
        num_others: int,
        newcomer: Callable[[Optimizer], bool],
    ) -> None:
        self._rooms = rooms = Rooms(
            watched,
            recording,
            schedule,
            ranks,
            on_nonfinite=on_nonfinite,
            num_others=num_others,
            newcomer=newcomer,
            woken=self._begin_step,
        )
        self.strangers = rooms.strangers
        self._optimizer_step = OptimizerStep(rooms, self._end_step)
        self.hooks = Hooks(watched, ForwardBackward(rooms), self._optimizer_step, guard)
        rooms.rest.hook(self.hooks, guard)
        self._last_judged = time.perf_counter()

    @property
    def step(self) -> int:
        """The number of the row that what happens now belongs to, as far as anybody can know."""
        return self._rooms.step

    @property
    def num_steps(self) -> int:
        """Rows that are over, as far as anybody can know."""
        return self._rooms.row.count.expected

    @property
    def num_waiting(self) -> int:
        """Backward passes since the last step of an optimizer."""
        return self._rooms.passes.numbers.num

    # ------------------------------------------------------------------------------------------------ beginning and end

    def begin(self) -> None:
        """Hook everything."""
        self.hooks.install()
        self._begin_step()

    def begin_within(self, optimizer: Optimizer) -> None:
        """The step of `optimizer` that is under way is the first: its closure has made no pass yet."""
        self._optimizer_step.before_step(optimizer, has_closure=True)

    def expect_scalers(self, scalers: Sequence[GradScaler]) -> None:
        """One of them, which there were before, may scale the first loss unseen."""
        self._rooms.loss_scale.scalers_before = tuple(scalers)

    def step_by_hand(self, is_left_out: bool = False) -> None:
        """Whoever wrote the loop says that a step is over, or that a scaler of its own left it out for an overflow."""
        self._optimizer_step.step_by_hand(is_left_out)

    def scaled_by(self, scaler: Any) -> None:
        """Whoever wrote the loop says what multiplies the next loss."""
        self._optimizer_step.scaled_by(scaler)

    def end(self, *, is_faulty: bool = False, last: Sequence[Tensor] = ()) -> None:
        """Keep what has arrived, and take every hook away; of a row in which we failed nothing is kept.

        `last`: what a script that gave up had made of its last forward pass.
        """
        rooms = self._rooms
        detector, delivery, row = rooms.detector, rooms.delivery, rooms.row
        spoilt = detector.look_at_forward(last, self.step) if last and not is_faulty else None
        is_bad = False
        if rooms.rest.is_on:
            rooms.rest.end()
            is_bad = not is_faulty and detector.ends_spoilt(row.number - 1)
        elif not is_faulty and not rooms.passes.is_running:
            row.close()
        delivery.send_end(row.number - 1, is_bad=is_bad)
        detector.settle()
        if spoilt is not None:
            delivery.send_end(self.step, spoilt)
        delivery.receive(wait=True)
        if rooms.ranks is not None:
            rooms.ranks.close(waits=not is_faulty)
        rooms.recording.cost(rooms.schedule.cost.record())
        if not is_faulty:
            reached = reached_in(rooms.recording.judging.traces)
            for name in never_stepped(rooms.watched, rooms.owner.num_steps, reached):
                rooms.recording.event(self.step, EventKind.IDLE, name)
        self.leave()

    def leave(self) -> None:
        """Take every hook away; more than once does no harm."""
        self.hooks.remove()
        self._rooms.forget()
        if self._rooms.ranks is not None:
            self._rooms.ranks.abandon()

    def leave_to_parent(self) -> None:
        """In a forked process: what threads of ours hold, which are not there, is not touched."""
        self._rooms.ranks = None
        self.leave()

    def before_joining(self) -> None:
        """More will be watched, perhaps under other names: what was seen so far is judged by the old ones."""
        self._rooms.delivery.receive()
        self._rooms.recording.judge(self.step)

    def expect(self, num_optimizers: int) -> None:
        """So many step in a row, as far as is known before the first one."""
        self._rooms.row.count.expect(num_optimizers)

    def join(self) -> None:
        """More is watched than before; a recording that began without it could not name what it sees."""
        rooms = self._rooms
        if rooms.sampler.lacks_some:
            rooms.sampler.abandon()
        rooms.recording.trained(rooms.watched.columns(), rooms.watched.described())
        if rooms.ranks is not None:
            rooms.ranks.shards.join()
        rooms.owner.forget_others()
        rooms.calls.called.clear()
        self.hooks.called.choose_again()

    def had_a_pass_before(self) -> None:
        """What has joined steps now, after a pass; that was not seen, where it was the first of all."""
        passes = self._rooms.passes.numbers
        if passes.is_taken or passes.loss is None:
            self._rooms.row.lacks_a_pass()

    def flush(self) -> None:
        """In the training's own thread: what is complete is kept now."""
        rooms = self._rooms
        if rooms.owner.is_here and not rooms.passes.is_running:
            if not rooms.rest.is_on and rooms.row.count.is_complete and rooms.passes.closure_of is None:
                rooms.row.close()
            rooms.delivery.receive()

    # ------------------------------------------------------------------------------------------------- step after step

    def _end_step(self, may_rest: bool) -> None:
        """A step is over; what is done at the next one?"""
        begun, rooms = time.perf_counter(), self._rooms
        schedule = rooms.schedule
        with schedule.spending("hooks"):
            rooms.row.is_ended = True
            rooms.uncleared.step_ended()
            rooms.delivery.receive_now_and_then()
            rooms.loss_scale.end_step()
            if may_rest:
                rooms.calls.forget()
            rooms.sampler.end_step()
            self.hooks.called.choose(rooms.calls.called)
        if begun - self._last_judged >= JUDGE_EVERY_S and schedule.wants_findings():
            with schedule.spending("findings"):
                rooms.recording.cost(schedule.cost.record())
                rooms.recording.judge(self.step)
            self._last_judged = time.perf_counter()
        schedule.step_ended(rooms.row.count.number)
        if schedule.level is Level.REST and may_rest:
            self._fall_asleep()
        else:
            self._begin_step()

    def _begin_step(self) -> None:
        rooms = self._rooms
        rooms.row.is_measured = rooms.detector.looks_always or rooms.schedule.level is Level.MEASURE
        if rooms.ranks is not None:
            rooms.ranks.own.step_begins(listens=rooms.row.is_measured and not rooms.ranks.is_alone)
        is_urgent = rooms.passes.has_jumped or rooms.delivery.has_fallen
        num_blocks = rooms.row.num_blocks if rooms.ranks is None else 1  # ranks trace the same pass
        is_due = rooms.sampler.begin(rooms.row.count.expected, is_urgent=is_urgent, num_blocks=num_blocks)
        rooms.passes.has_jumped = False
        rooms.delivery.has_fallen &= not is_due  # it stays so, and can wait for its turn

    def _fall_asleep(self) -> None:
        """Nothing is done from now on but to note the steps."""
        with self._rooms.schedule.spending("hooks"):
            self._rooms.row.close()
            self._rooms.passes.begin_block()
            self._rooms.rest.begin(self._rooms.row.number)
