"""One training, followed from hook to hook: an event comes in, and each room is told what it needs to do its part.

hooks        something happened
step         which row it belongs to
schedule     how much is done about it
statistics   the numbers of the row
traces       the step as a whole
nonfinite    where a NaN was born
recording    all of it kept
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from gradtrace.checkup.trial import learning_rate_of
from gradtrace.diagnosis.scene import is_finite
from gradtrace.monitor.hooks.backward_passes import BackwardPasses
from gradtrace.monitor.hooks.called import Called
from gradtrace.monitor.hooks.optimizer_steps import OptimizerSteps
from gradtrace.monitor.hooks.scalers import Scalers
from gradtrace.monitor.loss_scale import LossScale
from gradtrace.monitor.nonfinite.detector import Detector
from gradtrace.monitor.nonfinite.forward_calls import Calls
from gradtrace.monitor.owner import Owner
from gradtrace.monitor.recording.delivery import Delivery
from gradtrace.monitor.rest import Rest
from gradtrace.monitor.schedule.cost import Level
from gradtrace.monitor.schedule.jumps import Jumps
from gradtrace.monitor.statistics.gradients import Numbers, Passes
from gradtrace.monitor.statistics.updates import Updates
from gradtrace.monitor.step import Begins, Rows
from gradtrace.monitor.traces.sampler import Sampler
from gradtrace.monitor.uncleared import Uncleared
from gradtrace.records.run import EventKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn
    from torch.amp.grad_scaler import GradScaler
    from torch.optim import Optimizer

    from gradtrace.monitor.hooks.guard import Guard
    from gradtrace.monitor.ranks import Ranks
    from gradtrace.monitor.recording.recording import Recording
    from gradtrace.monitor.schedule.schedule import Schedule
    from gradtrace.monitor.watched import Watched
    from gradtrace.records.trace import Trace

JUDGE_EVERY_S = 5.0
"""[seconds] Between two looks for findings while the run goes on."""

BY_HAND = 0
"""Stands for an optimizer where whoever wrote the loop says that a step is over."""


class Training:
    """A `hooks.Listener` from `begin` to `end`."""

    def __init__(
        self,
        watched: Watched,
        recording: Recording,
        schedule: Schedule,
        on_nonfinite: str,
        newcomer: Callable[[Optimizer], bool],
        num_others: int = 0,
        ranks: Ranks | None = None,
    ) -> None:
        self._watched, self._recording, self._schedule, self._ranks = watched, recording, schedule, ranks
        self._newcomer = newcomer
        self._owner = Owner(watched, self._joins)
        self.loss_scale = LossScale()
        self._updates = Updates(watched)
        self._delivery = Delivery(recording, ranks)
        self._calls = Calls()
        self._detector = Detector(watched, recording, self._calls, on_nonfinite)
        self._sampler = Sampler(watched, recording, schedule)
        self.rows = Rows(len(watched.optimizers) + num_others)
        self._rest = Rest(self.rows, schedule, self._owner, self._detector, self._woken)
        self.is_tracing = False
        self._depth = 0
        """Of watched modules that are being called."""
        self._in_backward = False
        self._inside: Optimizer | None = None
        """The optimizer whose closure is running."""
        self._num_inside = 0
        """Passes that the closure has made."""
        self._usual_backwards: dict[int, int] = {}
        """Passes before the first, second, ... optimizer's step of a row, the last time."""
        self._arrivals: list[tuple[int, int]] | None = None
        self._calls_before = 0
        self._jumps, self._has_jumped = Jumps(), False
        self._last_judged = time.perf_counter()
        self._passes = Passes(watched)
        self._blocks: list[Numbers] = []
        """Of the row at hand, the latest last."""
        self._is_measuring = True
        self._is_left_out = False
        self._is_row_ended = True
        self._pass_scale: Tensor | None = None
        self._is_last_pass = True
        self._uncleared = Uncleared(watched, recording)
        self._taken_for: int | None = None
        """The row that the passes at hand were taken for, where a NaN among them was told of."""
        self._num_changes = watched.num_changes
        """Of who holds what, as far as the recording knows of them."""
        self.hooks: list[BackwardPasses | OptimizerSteps | Scalers] = []
        """As far as they have come."""

    @property
    def step(self) -> int:
        """The number of the row that what happens now belongs to, as far as anybody can know."""
        self._rest.catch_up()
        return self._recording.first_step + (self.rows.expected if self._is_row_ended else self.rows.number)

    # ------------------------------------------------------------------------------------------------ beginning and end

    def begin(self, guard: Guard) -> None:
        """Hook everything."""
        self._called = Called(self._watched, self, guard)
        try:
            self._called.look()
            self.hooks.append(backward_passes := BackwardPasses(self, guard))
            self.hooks.append(optimizer_steps := OptimizerSteps(self, guard))
            self.hooks.append(Scalers(self, guard))
            self._rest.hook(backward_passes, optimizer_steps, guard)
        except BaseException:
            self.leave()
            raise
        self._begin_step()

    def end(self, *, is_faulty: bool = False, last: Sequence[Tensor] = ()) -> None:
        """Keep what has arrived, and take every hook away; of a row in which we failed nothing is kept.

        `last`: what a script that gave up had made of its last forward pass.
        """
        spoilt = self._detector.look_at_forward(last, self.step) if last and not is_faulty else None
        is_bad = False
        if self._rest.is_on:
            self._rest.end()
            is_bad = not is_faulty and self._detector.ends_spoilt(self.row - 1)
        elif not is_faulty and not self._in_backward:
            self.close_row()
        self._delivery.send_end(self.row - 1, is_bad=is_bad)
        self._detector.settle()
        if spoilt is not None:
            self._delivery.send_end(self.step, spoilt)
        self._delivery.receive(wait=True)
        if self._ranks is not None:
            self._ranks.close(waits=not is_faulty)
        self._recording.cost(self._schedule.cost.record())
        self.leave()

    def leave(self) -> None:
        """Take every hook away; more than once does no harm."""
        self._called.look_away()
        for hook in self.hooks:
            hook.remove()
        self._sampler.abandon()
        self._calls.forget()
        self._detector.forget()
        if self._ranks is not None:
            self._ranks.abandon()

    def leave_to_parent(self) -> None:
        """In a forked process: what threads of ours hold, which are not there, is not touched."""
        self._ranks = None
        self.leave()

    def before_joining(self) -> None:
        """More will be watched, perhaps under other names: what was seen so far is judged by the old ones."""
        self._delivery.receive()
        self._recording.judge(self.step)

    def join(self) -> None:
        """More is watched than before."""
        self._recording.trained(self._watched.columns(), self._watched.described())
        if self._ranks is not None:
            self._ranks.join()
        self._owner.forget_others()
        self._calls.called.clear()
        self._called.choose_again()

    def _joins(self, optimizer: Optimizer) -> bool:
        is_ours = self._newcomer(optimizer)
        if is_ours:
            self.rows.backward()  # its passes were nobody's
        return is_ours

    # ----------------------------------------------------------------------------------------------------- forward

    def entered(self, label: str, module: nn.Module, args: Any, kwargs: Any, function: Any = None) -> Any:
        """A watched module is called, or a compiled function."""
        if self._detector.is_replaying or self._depth or self._rest.is_on or not self._owner.is_here:
            return None
        begun = time.perf_counter()
        self._depth += 1
        call = self._calls.entered(label, module, args, kwargs, function)
        self._schedule.spend("hooks", time.perf_counter() - begun)
        if self._owner.is_surely_here:  # the tape is recorded where it is walked
            self._sampler.entered(call, args, kwargs)
        return (call,)

    def left(self, token: Any, output: Any) -> None:
        """It returned, or raised."""
        self._depth -= 1
        (call,) = token
        if call is not None:
            begun = time.perf_counter()
            self._calls.left(call, output)
            self._schedule.spend("hooks", time.perf_counter() - begun)
        self._sampler.left(output)

    def forward_is_over(self) -> None:
        """``loss.backward`` was called."""
        if self._owner.is_here:
            self._sampler.end_forward()

    # ---------------------------------------------------------------------------------------------------- backward

    def before_backward(self, roots: Sequence[Tensor], create_graph: bool) -> bool:
        """The loss is known, the gradients are not."""
        if self._detector.is_replaying or (self._in_backward and self._owner.is_here) or not self._owner.has(roots):
            return False
        begun = time.perf_counter()
        self._in_backward = True
        if self._ranks is not None:
            self._ranks.loss_is_there()
        self.loss_scale.before_first_backward()
        is_called = self._calls.num_calls != self._calls_before
        self._arrivals = None if is_called else self._watched.arrivals()
        is_first = self._passes.is_taken or not self._passes.num
        self._uncleared.before_backward(looks=is_first and self._sampler.is_open and self.rows.expected > 0)
        self._detector.before_backward(roots, self.loss_scale.of_loss)
        if is_called:  # or else nobody knows yet whether it brings us anything
            self._count(roots)
        self._schedule.spend("hooks", time.perf_counter() - begun)
        self._sampler.before_backward(roots[0], create_graph)
        return True

    def backward_failed(self, roots: Sequence[Tensor]) -> None:
        """It raised."""
        self._in_backward = False
        if self._arrivals is None:
            self._passes.take_back()
        self._detector.backward_failed(roots, self.step)
        self._sampler.abandon()
        self._calls.forget()

    def after_backward(self, roots: Sequence[Tensor]) -> None:
        """The gradients are there, and nobody has clipped them yet."""
        self._in_backward = False
        begun = time.perf_counter()
        detector = self._detector
        if self._arrivals is not None:
            if self._arrivals == self._watched.arrivals():
                self._owner.num_others += 1
                detector.of_another_model()
                return
            self._count(roots)
        self._calls_before = self._calls.num_calls
        scale, norms, passes, is_last = self._pass_scale, None, self._passes, self._is_last_pass
        is_odd = not (self._is_measuring and is_last) and detector.sees_odd_gradient()
        self._is_measuring |= is_odd
        self._schedule.spend("hooks", time.perf_counter() - begun)
        if is_last and self._is_measuring and not passes.is_taken:
            begun = time.perf_counter()
            norms = passes.measure(scale)
            self._schedule.spend("norms", time.perf_counter() - begun)
        elif self._is_measuring:
            detector.remember(roots)
        begun = time.perf_counter()
        step = self.row if passes.is_taken else self.step  # or an optimizer has stepped within it
        was_explained = self._recording.is_explained
        is_bad = detector.after_backward(roots, norms, scale, is_odd and norms is None)
        passes.is_bad |= is_bad
        if self._sampler.is_open:
            before = time.perf_counter()
            trace = self._traced(scale)
            begun += time.perf_counter() - before  # which the sampler accounts for
        else:
            trace = None
        # a scaler lets go of an overflow
        if trace is not None and (scale is None or detector.no_scale_helps or is_finite(trace)):
            self._recording.trace(step, trace)
            self._uncleared.after_backward(step)
        self.is_tracing = self._sampler.is_open
        detector.judge(roots, step, norms, scale, is_bad=is_bad)
        is_told = self._recording.is_explained and not was_explained
        self._taken_for = step if is_told and not passes.is_taken and self._inside is None else None
        if self._inside is not None:
            detector.leave_out_if_spoilt(self._inside, step)
        self._schedule.spend("traces" if trace is not None else "hooks", time.perf_counter() - begun)

    def _traced(self, scale: Tensor | None) -> Trace | None:
        self._detector.is_replaying = True  # what is compiled is called once more
        try:
            return self._sampler.after_backward(scale)
        finally:
            self._detector.is_replaying = False

    def _count(self, roots: Sequence[Tensor]) -> None:
        """Add a pass to those since the last optimizer's step.

        Of an optimizer's closure the first pass counts: that of the weights before the step.
        """
        self.rows.backward()
        self._pass_scale = self.loss_scale.of_loss
        self.loss_scale.backward()
        if self._passes.is_taken:
            self._passes = Passes(self._watched)
        if self._inside is not None:
            self._num_inside += 1
            self._is_last_pass = self._num_inside == 1
            if not self._is_last_pass:
                return
        self._passes.add(roots, self._detector.loss_value, self._pass_scale)
        has_jumped = self._jumps.is_one(self._detector.loss_value)
        self._has_jumped |= has_jumped
        self._is_measuring |= has_jumped
        if self._inside is None:  # as many as the last time
            self._is_last_pass = self._passes.num >= self._usual_backwards.get(self._place, 1)

    @property
    def _place(self) -> int:
        """Of the optimizer that is likely to step next, in its row."""
        return 0 if self.rows.is_complete else len(self.rows.members)

    # --------------------------------------------------------------------------------------------------- optimizers

    def before_step(self, optimizer: Optimizer, has_closure: bool) -> None:
        """Clipped and unscaled (a closure runs later); the weights are still as the gradients saw them."""
        if self._detector.is_replaying or not self._owner.holds(optimizer):
            return
        begun = time.perf_counter()
        self._step_begins(id(optimizer))
        numbers = self._blocks[-1]
        rate = learning_rate_of([optimizer])  # a scheduler may change it before the step is over
        numbers.learning_rate = rate if not numbers.learning_rate >= rate else numbers.learning_rate
        self._detector.before_step(optimizer, self.row, has_closure=has_closure)
        self._inside, self._num_inside = optimizer if has_closure else None, 0  # the last closure may have raised
        self._schedule.spend("hooks", time.perf_counter() - begun)
        if not has_closure:
            self._take_passes(optimizer)
            self._detector.leave_out_if_spoilt(optimizer, self.row)
        if self._is_measuring and self._schedule.wants_updates(self.rows.number) and not self._updates.is_holding:
            begun = time.perf_counter()
            numbers.remember_weights()
            if self._ranks is not None:
                numbers.sums = self._ranks.sums_of_weights()
            self._schedule.done("updates", self.rows.number)
            self._schedule.spend("updates", time.perf_counter() - begun)

    def after_step(self, optimizer: Optimizer) -> None:
        """The weights have moved."""
        if self._detector.is_replaying or id(optimizer) not in self._owner.num_steps or not self._owner.is_here:
            return
        self._owner.num_steps[id(optimizer)] += 1
        if self._inside is optimizer:
            self._take_passes(optimizer)
            self._inside, self._num_inside = None, 0
        self._detector.no_scale_helps = False
        self._step_ends()

    def num_steps_of(self, optimizer: Optimizer) -> int:
        """Steps that `after_step` was told of; -1: it is not watched."""
        self._rest.catch_up()
        return self._owner.num_steps[id(optimizer)] if self._owner.holds(optimizer) else -1

    def scaled_by(self, scaler: GradScaler, num_losses: int = 1) -> None:
        """So many losses are multiplied."""
        if self._owner.is_here:
            self.loss_scale.multiplied(scaler, num_losses)

    def step_left_out(self, optimizer: Optimizer) -> None:
        """By a scaler, for an overflow."""
        if self._rest.is_on:
            self._rest.note(id(optimizer))
            return
        self._step_begins(id(optimizer))
        self._left_out(self._watched.told_by(optimizer))
        self._step_ends()

    def _left_out(self, told: list[int] | None) -> None:
        self._blocks[-1].take(self._passes, told, measured=self._is_measuring)
        self._recording.event(self.row, EventKind.SKIPPED, "the loss scaler left the step out: overflow")
        self._is_left_out = True
        self._detector.no_scale_helps = self.loss_scale.is_least

    def step_by_hand(self, is_left_out: bool = False) -> None:
        """Whoever wrote the loop says that a step is over, or that a scaler of its own left it out for an overflow."""
        if self._rest.is_on:
            self._rest.note(BY_HAND)
            return
        self._detector.settle()
        self._step_begins(BY_HAND)
        if is_left_out:
            self._left_out(None)
        else:
            self._take_passes(None)
        self._step_ends()

    def _take_passes(self, optimizer: Optimizer | None) -> None:
        """What came since the last step goes to the row, with what became of it before this one."""
        begun, passes, numbers = time.perf_counter(), self._passes, self._blocks[-1]
        if passes.num and not passes.is_taken:
            self._usual_backwards[len(self.rows.members) - 1] = passes.num
        if optimizer is None:
            told, held = None, list(range(len(self._watched.parameters)))
        else:
            told, held = self._watched.told_by(optimizer), self._watched.held_by(optimizer)
            if self._watched.num_changes != self._num_changes:  # parameters were added to an optimizer
                self._recording.trained(self._watched.columns(), self._watched.described())
                self._num_changes = self._watched.num_changes
        if self._ranks is not None and self._is_measuring:
            self._ranks.look_at_gradients()
        is_new = passes.norms is None
        numbers.take(passes, told, measured=self._is_measuring)
        if self._is_measuring and self._num_inside <= 1:
            # a fused optimizer takes the scale out by itself
            still = self.loss_scale.of_gradients if optimizer is None else getattr(optimizer, "grad_scale", None)
            found = passes.measure_again(held, still)
            if found is not None:
                (numbers.take_norms if is_new else numbers.clip)(found, held)
            if is_new and found is not None and passes.scale is None:
                self._detector.judge_late(found, self.row)
        self._schedule.spend("norms", time.perf_counter() - begun)

    # ------------------------------------------------------------------------------------------------------- rows

    @property
    def row(self) -> int:
        """The number of the row at hand."""
        return self._recording.first_step + self.rows.number

    def _step_begins(self, key: int) -> None:
        begins = self.rows.step(key)
        if begins is not Begins.NOTHING:
            num = len(self._blocks) - (begins is Begins.ROW_OF_BLOCK)
            self._send(self._blocks[:num], self.row - 1)
            del self._blocks[:num]
            if not self._is_row_ended:  # it was not what rows usually are
                self._end_step(may_rest=False)
        if not self._blocks or self.rows.is_block_new:
            self._blocks.append(Numbers(self._watched, self._updates))
            if self._passes.is_taken and not self._in_backward:  # and there was none since
                self._passes = Passes(self._watched)
        if self._taken_for is not None and self._taken_for != self.row:
            self._recording.belongs_to(self.row, self._taken_for)
        self._taken_for, self._is_row_ended = None, False

    def _step_ends(self) -> None:
        """An optimizer's step is over, and with it perhaps the row."""
        if not self.rows.is_complete:
            return
        for numbers in self._blocks if self._updates.is_holding else ():
            if numbers.holds_weights:
                begun = time.perf_counter()
                numbers.compare_weights()
                self._schedule.spend("updates", time.perf_counter() - begun)
        if self.rows.is_single and not self._in_backward:
            self.close_row()
        self._end_step(may_rest=not self._in_backward)

    def close_row(self) -> None:
        """Whatever steps next begins a row."""
        if self.rows.members:
            self._send(self._blocks, self.row)
            self._blocks.clear()
            self.rows.close()

    def _send(self, blocks: Sequence[Numbers], step: int) -> None:
        """The numbers of a row set off."""
        if not blocks:
            return
        begun = time.perf_counter()
        # a scaler that finds its scale is healthy
        counts = not self._is_left_out and (any(b.has_loss for b in blocks) or not self.loss_scale.has_scaler)
        self._delivery.send(step, blocks, counts=counts)
        self._is_left_out = False
        self._schedule.spend("hooks", time.perf_counter() - begun)

    def _end_step(self, *, may_rest: bool) -> None:
        """A step is over; what is done at the next one?"""
        begun = time.perf_counter()
        self._is_row_ended = True
        self._uncleared.step_ended()
        self._delivery.receive_now_and_then()
        self.loss_scale.end_step()
        if may_rest:
            self._calls.forget()
        self._sampler.end()
        self._called.choose(self._calls.called)
        self._schedule.spend("hooks", time.perf_counter() - begun)
        self._judge_now_and_then(begun)
        self._schedule.step_ended(self.rows.number)
        if self._schedule.level is Level.REST and may_rest:
            self._fall_asleep()
        else:
            self._begin_step()

    def _begin_step(self) -> None:
        if self._ranks is not None:
            self._ranks.step_begins()
        self._is_measuring = self._detector.looks_always or self._schedule.level is Level.MEASURE
        self._sampler.begin(self.rows.expected, is_urgent=self._has_jumped)
        self.is_tracing = self._sampler.is_open
        self._has_jumped = False

    def _fall_asleep(self) -> None:
        """Nothing is done from now on but to note the steps."""
        begun = time.perf_counter()
        self.close_row()
        self._called.rest()
        self._passes = Passes(self._watched)
        self.is_tracing = False
        self._rest.begin(self.row)
        self._schedule.spend("hooks", time.perf_counter() - begun)

    def _woken(self) -> None:
        begun = time.perf_counter()
        self._called.look()
        self._schedule.spend("hooks", time.perf_counter() - begun)
        self._begin_step()

    # ------------------------------------------------------------------------------------------------------- keeping

    def flush(self) -> None:
        """In the training's own thread: what is complete is kept now."""
        if self._owner.is_here and not self._in_backward:
            if not self._rest.is_on and self.rows.is_complete and self._inside is None:
                self.close_row()
            self._delivery.receive()

    def _judge_now_and_then(self, now: float) -> None:
        if now - self._last_judged < JUDGE_EVERY_S or not self._schedule.wants_findings():
            return
        self._recording.cost(self._schedule.cost.record())
        self._recording.judge(self.step)
        self._last_judged = time.perf_counter()
        self._schedule.spend("findings", self._last_judged - now)
