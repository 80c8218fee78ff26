"""An optimizer steps: what came before it goes to its row, and weights are looked at before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.checkup.trial import learning_rate_of
from gradtrace.monitor.statistics.entries import entries

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.amp.grad_scaler import GradScaler
    from torch.optim import Optimizer

    from gradtrace.monitor.rooms import Rooms

BY_HAND = -1
"""Stands for the seat of an optimizer where whoever wrote the loop says that a step is over."""


class OptimizerStep:
    """A `hooks.StepListener`; `end_step` is called where all have stepped that usually do: may a rest follow?"""

    def __init__(self, rooms: Rooms, end_step: Callable[[bool], None]) -> None:
        self._rooms, self._end_step = rooms, end_step
        self._row, self._passes, self._detector = rooms.row, rooms.passes, rooms.detector
        self._watched, self._schedule, self._owner = rooms.watched, rooms.schedule, rooms.owner
        self._num_changes = rooms.watched.num_changes
        """Of who holds what, as far as the recording knows of them."""

    def before_step(self, optimizer: Optimizer, has_closure: bool) -> None:
        """Clipped and unscaled (a closure runs later); the weights are still as the gradients saw them."""
        if self._detector.is_replaying or not self._owner.holds(optimizer):
            return
        self._step_begins(self._owner.seat_of(optimizer))
        numbers, count = self._row.numbers, self._row.count
        with self._schedule.spending("hooks"):
            rate = learning_rate_of([optimizer])  # a scheduler may change it before the step is over
            numbers.learning_rate = rate if not numbers.learning_rate >= rate else numbers.learning_rate
            self._detector.before_step(optimizer, self._row.number, has_closure=has_closure)
            self._passes.begin_closure(optimizer if has_closure else None)
        if not has_closure:
            with self._schedule.spending("walks"):
                self._rooms.astray.before_step(optimizer, self._row.number)
            self._take_passes(optimizer)
            self._detector.leave_out_if_spoilt(optimizer, self._row.number)
        if self._row.is_measured and self._schedule.wants_updates(count.number) and not self._row.is_holding_weights:
            with self._schedule.spending("updates"):
                numbers.remember_weights()
                if self._rooms.ranks is not None:
                    numbers.sums = self._rooms.ranks.shards.sums_of_copies()
                    gradients = [parameter.grad for parameter in self._watched.parameters]
                    numbers.entries = entries(gradients, getattr(optimizer, "grad_scale", None))
                self._schedule.done("updates", count.number)

    def after_step(self, optimizer: Optimizer) -> None:
        """The weights have moved."""
        if self._detector.is_replaying or not self._owner.has_stepped(optimizer) or not self._owner.is_here:
            return
        self._owner.num_steps[self._owner.seat_of(optimizer)] += 1
        if self._passes.closure_of is optimizer:
            self._take_passes(optimizer)
            self._passes.end_closure()
        self._detector.no_scale_helps = False
        self._step_ends()

    def num_steps_of(self, optimizer: Optimizer) -> int:
        """Steps that `after_step` was told of; -1: it is not watched."""
        self._rooms.rest.catch_up()
        return self._owner.num_steps[self._owner.seat_of(optimizer)] if self._owner.holds(optimizer) else -1

    def scaled_by(self, scaler: GradScaler, num_losses: int = 1) -> None:
        """So many losses are multiplied."""
        if self._owner.is_here:
            self._rooms.loss_scale.multiplied(scaler, num_losses)

    def step_left_out(self, optimizer: Optimizer) -> None:
        """By a scaler, for an overflow."""
        if self._rooms.rest.is_on:
            self._rooms.rest.note(self._owner.seat_of(optimizer))
            return
        self._step_begins(self._owner.seat_of(optimizer))
        self._leave_out(self._watched.told_by(optimizer))
        self._step_ends()

    def _leave_out(self, told: Sequence[int] | None) -> None:
        self._row.numbers.take(self._passes.numbers, told, measured=self._row.is_measured)
        self._row.leave_out()
        self._detector.no_scale_helps = self._rooms.loss_scale.is_least

    def step_by_hand(self, is_left_out: bool = False) -> None:
        """Whoever wrote the loop says that a step is over, or that a scaler of its own left it out for an overflow."""
        if self._rooms.rest.is_on:
            self._rooms.rest.note(BY_HAND)
            return
        self._detector.settle()
        self._step_begins(BY_HAND)
        if is_left_out:
            self._leave_out(None)
        else:
            self._take_passes(None)
        self._step_ends()

    def _take_passes(self, optimizer: Optimizer | None) -> None:
        """What came since the last step goes to the row, with what became of it before this one."""
        with self._schedule.spending("norms"):
            passes, numbers = self._passes.numbers, self._row.numbers
            self._passes.learn()
            told, held = self._columns_of(optimizer)
            if self._rooms.ranks is not None and self._row.is_measured:
                numbers.local = self._rooms.ranks.own.gradients_are_there(passes.scale)
            is_new = passes.norms is None
            numbers.take(passes, told, measured=self._row.is_measured)
            if not self._row.is_measured or not self._passes.is_current:
                return
            # a fused optimizer takes the scale out by itself
            own = self._rooms.loss_scale.of_gradients if optimizer is None else getattr(optimizer, "grad_scale", None)
            found = passes.measure_again(held, own)
            if found is not None:
                (numbers.take_norms if is_new else numbers.clip)(found, held)
                if is_new and passes.scale is None:
                    self._detector.judge_late(found, self._row.number)

    def _columns_of(self, optimizer: Optimizer | None) -> tuple[Sequence[int] | None, Sequence[int]]:
        """Of the parameters whose gradients count when it steps (None: all), and of those that it moves."""
        if optimizer is None:
            return None, range(len(self._watched.parameters))
        told, held = self._watched.told_by(optimizer), self._watched.held_by(optimizer)
        if self._watched.num_changes != self._num_changes:  # parameters were added to an optimizer
            self._rooms.recording.trained(self._watched.columns(), self._watched.described())
            self._num_changes = self._watched.num_changes
        return told, held

    def _step_begins(self, key: int) -> None:
        with self._schedule.spending("hooks"):
            is_cut_short = self._row.step(key)
            if self._row.count.is_block_new and self._passes.numbers.is_taken and not self._passes.is_running:
                self._passes.begin_block()  # there was no pass since
        if is_cut_short:
            self._end_step(False)
            self._row.is_ended = False

    def _step_ends(self) -> None:
        """An optimizer's step is over, and with it perhaps the row."""
        count = self._row.count
        if not count.is_complete:
            return
        if self._row.is_holding_weights:
            with self._schedule.spending("updates"):
                self._row.compare_weights()
        if count.is_single and not self._passes.is_running:
            with self._schedule.spending("hooks"):
                self._row.close()
        self._end_step(not self._passes.is_running)
