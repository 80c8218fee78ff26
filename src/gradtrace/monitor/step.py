"""The course of a training, followed from one hook to the next: when a step is over, and what is measured in it.

Two tiers: fused norms of the gradients at every step (and now and then of weights and updates), whole traces at
sampled steps; `schedule` decides. `boundaries` tells what happens, `tally` measures, `logbook` keeps.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from gradtrace.diagnosis.scene import is_finite
from gradtrace.monitor.nonfinite.detector import Alarm
from gradtrace.monitor.nonfinite.forward_calls import Calls
from gradtrace.monitor.hooks.module_calls import Entrances
from gradtrace.monitor.statistics.transfer import Ferry
from gradtrace.monitor.traces.sampler import Sampling
from gradtrace.monitor.statistics.gradients import Passes, Tally
from gradtrace.monitor.statistics.updates import Updates
from gradtrace.records.run import EventKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn
    from torch.amp.grad_scaler import GradScaler
    from torch.optim import Optimizer

    from gradtrace.monitor.hooks.module_calls import Visitor
    from gradtrace.monitor.recording.recording import Logbook
    from gradtrace.monitor.schedule.budget import Budget
    from gradtrace.monitor.watched import Watched

RECEIVED_TOGETHER, RECEIVE_EVERY_S = 16, 0.25
"""[steps, seconds] Numbers are kept waiting: what is done to many in a row is done while its code is in the cache."""

JUDGE_EVERY_S = 5.0
"""[seconds] Between two looks for findings while the run goes on."""

JUMP, FADE = 10.0, 0.98
"""A loss so many times the largest of late (which halves in 34 steps) is looked at whatever that costs: seldom, for the
next one must be so many times larger again."""

SELDOM_FRAC = 0.1
"""[fraction of the steps] Fewer than so many with norms are worth a note."""


class Course:
    """From `begin` to `end`; the methods of a `boundaries.Listener` between them."""

    def __init__(self, watched: Watched, logbook: Logbook, budget: Budget, on_nonfinite: str) -> None:
        self._watched, self._logbook, self._budget = watched, logbook, budget
        self._began = self._entered = time.perf_counter()
        self._last_judged = self._last_received = self._last_end = self._began
        self._ferry = Ferry()
        self._updates = Updates(watched)
        self._calls = Calls()
        self._entrances: Entrances | None = None
        self._alarm = Alarm(watched, logbook, self._calls, on_nonfinite)
        self._sampling = Sampling(watched, logbook, budget)
        self._scaler: GradScaler | None = None
        self._num_scaled = 0
        """Losses that a scaler has multiplied and nobody has called backward on yet."""
        self._active = {id(optimizer) for optimizer in watched.optimizers}
        """Optimizers that stepped in the row before."""
        self._usual_backwards: dict[int, int] = {}
        """Passes before the first, second, ... optimizer's step of a row, the last time."""
        self._inside: Optimizer | None = None
        """The optimizer whose closure is running."""
        self._num_inside = 0
        """Passes that the closure has made."""
        self._num_measured, self._is_measuring = 0, True
        self._arrivals: list[tuple[int, int]] | None = None
        self._calls_before = 0
        self._hooks_s, self._recent_loss, self._has_jumped = 0.0, 0.0, False
        self._num_changes = watched.num_changes
        self.step = logbook.first_step
        self._begin_step()

    def begin(self, visitor: Visitor) -> None:
        """Have `visitor` (this course, guarded) told of the models' calls."""
        self._visitor = visitor
        if not self._watched.compiled:
            self._entrances = Entrances(self._watched.roots, visitor)

    def end(self) -> None:
        """Keep what has arrived, and take every hook away."""
        if self._stepped:
            self.end_step()
        self.receive(wait=True)
        self._alarm.settle()
        self.leave()
        if self._num_measured < SELDOM_FRAC * self._num_steps:
            told = f"gradient norms were taken at {self._num_measured} of {self._num_steps} steps"
            self._logbook.note(self.step, f"{told}: the budget allows no more")

    def leave(self) -> None:
        """Take every hook away; more than once does no harm."""
        if self._entrances is not None:
            self._entrances.close()
        self._sampling.abandon()
        self._calls.forget()
        self._alarm.forget()

    # -------------------------------------------------------------------------------------------------- what hooks tell

    def entered(self, label: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A watched module is called."""
        if self._alarm.is_replaying:
            return
        if self._is_over:
            self.end_step()
        begun = time.perf_counter()
        if self._entered <= self._last_end:  # the first call of this step
            self._entered = begun
        self._calls.entered(label, module, args, kwargs)
        self._hooks_s += time.perf_counter() - begun
        self._sampling.entered(args, kwargs)

    def left(self, _label: str, output: Any) -> None:
        """It returned, or raised."""
        if self._alarm.is_replaying:
            return
        self._sampling.left()
        begun = time.perf_counter()
        self._calls.left(output)
        self._hooks_s += time.perf_counter() - begun

    def forward_is_over(self) -> None:
        """``loss.backward`` was called."""
        self._sampling.end_forward()

    def before_backward(self, roots: Sequence[Tensor], create_graph: bool) -> None:
        """The loss is known, the gradients are not."""
        if self._is_over:
            self.end_step()
        begun = time.perf_counter()
        is_called = self._calls.num_calls != self._calls_before
        self._arrivals = None if is_called else self._watched.arrivals()
        self._alarm.before_backward(roots, self._scale)
        self._hooks_s += time.perf_counter() - begun
        self._sampling.before_backward(roots[0], create_graph)

    def backward_failed(self, roots: Sequence[Tensor]) -> None:
        """It raised."""
        self._alarm.backward_failed(roots, self.step)
        self._sampling.abandon()
        self._calls.forget()

    def after_backward(self, roots: Sequence[Tensor]) -> None:
        """The gradients are there, and nobody has clipped them yet."""
        begun = time.perf_counter()
        if self._arrivals is not None and self._arrivals == self._watched.arrivals():
            self._alarm.of_another_model()
            return
        self._calls_before = self._calls.num_calls
        span, scale, norms = begun - self._entered, self._scale, None
        self._num_scaled = max(0, self._num_scaled - 1)
        is_last = self._count(roots, scale)
        self._is_measuring |= self._jumps(self._alarm.loss_value)
        measures = self._is_measuring or self._wants_norms
        is_odd = not (measures and is_last) and self._alarm.sees_odd_gradient()
        self._is_measuring |= is_odd
        self._hooks_s += time.perf_counter() - begun
        if is_last and (measures or is_odd):
            begun = time.perf_counter()
            norms = self._passes.measure(scale)
            self._spend("norms", begun)
        elif measures or is_odd:
            self._alarm.remember(roots)
        begun = time.perf_counter()
        is_bad = self._alarm.after_backward(roots, norms, scale, is_odd and norms is None)
        self._hooks_s += time.perf_counter() - begun
        trace = self._sampling.after_backward(scale, span, self._num_steps)
        # a scaler lets go of an overflow
        if trace is not None and (scale is None or self._alarm.no_scale_helps or is_finite(trace)):
            begun = time.perf_counter()
            self._logbook.trace(self.step, trace)
            self._spend("trace", begun)
        begun = time.perf_counter()
        self._alarm.judge(roots, self.step, norms, scale, is_bad=is_bad)
        if self._inside is not None:
            self._alarm.leave_out_if_spoilt(self._inside, self.step)
        self._hooks_s += time.perf_counter() - begun

    def before_step(self, optimizer: Optimizer, has_closure: bool) -> None:
        """Clipped and unscaled (a closure runs later); the weights are still as the gradients saw them."""
        if id(optimizer) in self._stepped:
            self.end_step(goes_on=True)
        begun = time.perf_counter()
        if not self._stepped:
            self._learning_rate = self._watched.learning_rate()  # a scheduler may change it before the step is over
        self._alarm.before_step(optimizer, has_closure=has_closure)
        self._hooks_s += time.perf_counter() - begun
        self._inside, self._num_inside = optimizer if has_closure else None, 0  # the last closure may have raised
        if not has_closure:
            self._take_passes(optimizer)
            self._alarm.leave_out_if_spoilt(optimizer, self.step)
        if not self._stepped and self._is_measuring and self._budget.may_update(self._num_steps):
            begun = time.perf_counter()
            self._tally.remember_weights()
            self._spend("updates", begun)

    def after_step(self, optimizer: Optimizer) -> None:
        """The weights have moved; with several optimizers a step is over when all of the last one have."""
        if self._inside is optimizer:
            self._take_passes(optimizer)
            self._inside, self._num_inside = None, 0
        self._stepped.add(id(optimizer))
        self._alarm.no_scale_helps = False
        self._is_over = self._stepped >= self._active
        if self._is_over and self._updates.is_holding:
            begun = time.perf_counter()
            self._tally.compare_weights()
            self._spend("updates", begun)

    def scaled_by(self, scaler: GradScaler, num_losses: int = 1) -> None:
        """So many losses are multiplied."""
        self._scaler = scaler
        self._num_scaled += num_losses

    def step_left_out(self, optimizer: Optimizer) -> None:
        """By a scaler, for an overflow."""
        if id(optimizer) in self._stepped:
            self.end_step(goes_on=True)
        self._logbook.event(self.step, EventKind.SKIPPED, "the GradScaler left the step out: overflow")
        self._is_left_out = True
        scale = getattr(self._scaler, "_scale", None)
        self._alarm.no_scale_helps = scale is not None and float(scale) <= 1.0
        self._stepped.add(id(optimizer))
        self._is_over = self._stepped >= self._active

    def end_step(self, goes_on: bool = False) -> None:
        """Send the numbers off, and begin anew; `goes_on`: with the passes since the last optimizer's step."""
        self._is_over, passes = False, self._passes
        goes_on = goes_on and not passes.is_taken and passes.num > 0
        begun = time.perf_counter()
        if not self._stepped:  # whoever moves the weights is not seen
            self._alarm.settle()
        if not goes_on and not passes.is_taken and passes.num:
            self._usual_backwards[len(self._stepped)] = passes.num
            self._tally.take(passes, measured=self._is_measuring)
        self._active = self._stepped or self._active
        is_bad = self._alarm.bad_step == self.step
        if self._is_measuring or is_bad or self._is_left_out:
            # a scaler that finds its scale is healthy
            counts = not self._is_left_out and (self._tally.has_loss or self._scaler is None)
            what = (self.step, begun - self._began, self._learning_rate, counts, is_bad)
            self._ferry.send(what, self._tally.cargo())
            self._num_measured += self._tally.is_measured
            self._spend("norms", begun)
        begun = time.perf_counter()
        if len(self._ferry) >= RECEIVED_TOGETHER or begun - self._last_received > RECEIVE_EVERY_S:
            self.receive()
        if not goes_on:
            self._num_scaled = 0
            self._calls.forget()
            self._sampling.end(self._num_steps)
        self._judge_now_and_then(begun)
        self.step += 1
        self._begin_step(passes if goes_on else None)
        self._last_end = time.perf_counter()
        self._budget.spend("hooks", self._hooks_s + self._last_end - begun, self._num_steps)
        self._hooks_s = 0.0

    # ------------------------------------------------------------------------------------------------------- inside

    def _begin_step(self, passes: Passes | None = None) -> None:
        self._tally, self._stepped = Tally(self._watched, self._updates), set[int]()
        self._passes = passes or Passes(self._watched)
        if passes is not None:
            self._is_measuring = self._alarm.looks_always or passes.norms is not None
        else:
            self._is_measuring = self._alarm.looks_always or self._budget.may_measure(self._num_steps)
        self._wants_norms = False
        self._learning_rate = math.nan
        self._is_left_out = self._is_over = False
        if self._num_steps == 1 and self._entrances is not None and not self._calls.num_calls:
            self._look_at_the_parts()
        self._sampling.begin(self._num_steps, is_urgent=self._has_jumped)
        self._has_jumped = False

    def _count(self, roots: Sequence[Tensor], scale: Tensor | None) -> bool:
        """Add a pass to those since the last optimizer's step; whether as many are there as the last time.

        Of an optimizer's closure the first pass counts: that of the weights before the step.
        """
        if self._passes.is_taken:  # of this row, or of the next one
            self._passes = Passes(self._watched)
            self._wants_norms = self._is_measuring or self._budget.may_measure(self._num_steps)
        if self._inside is not None:
            self._num_inside += 1
            if self._num_inside > 1:
                return False
        self._passes.add(roots, self._alarm.loss_value, scale)
        return self._passes.num >= self._usual_backwards.get(len(self._stepped), 1)

    def _jumps(self, loss: float | None) -> bool:
        """Whether a loss is far above the latest ones: such a step is measured, and the next one traced."""
        if loss is None or not math.isfinite(loss):
            return False
        jumps = abs(loss) > JUMP * self._recent_loss > 0.0
        self._has_jumped |= jumps
        self._recent_loss = max(abs(loss), FADE * self._recent_loss)
        return jumps

    def _take_passes(self, optimizer: Optimizer) -> None:
        """What came since the last step goes to the row, with what became of it before this one."""
        begun, passes = time.perf_counter(), self._passes
        if passes.num and not passes.is_taken:
            self._usual_backwards[len(self._stepped)] = passes.num
        told, held = self._watched.told_by(optimizer), self._watched.held_by(optimizer)
        if self._watched.num_changes != self._num_changes:  # parameters were added to an optimizer
            self._num_changes = self._watched.num_changes
            self._logbook.trained(self._watched.columns(), self._watched.described())
        is_new = passes.norms is None
        self._tally.take(passes, told, measured=self._is_measuring)
        if not self._is_measuring or self._num_inside > 1:
            return
        # a fused optimizer takes the scale out by itself
        found = passes.measure_again(held, getattr(optimizer, "grad_scale", None))
        if found is not None:
            (self._tally.take_norms if is_new else self._tally.clip)(found, held)
        self._spend("norms", begun)
        if is_new and found is not None and self._scale is None:
            self._alarm.judge_late(found, self.step)

    def _look_at_the_parts(self) -> None:
        """The module itself was never called: its children may be."""
        assert self._entrances is not None
        self._entrances.close()
        self._watched.descend()
        self._entrances = Entrances(self._watched.roots, self._visitor)

    @property
    def _num_steps(self) -> int:
        """Of this run of the script."""
        return self.step - self._logbook.first_step

    @property
    def _scale(self) -> Tensor | None:
        """What the loss at hand was multiplied by; None: it was not."""
        scaler = self._scaler
        if scaler is None or not self._num_scaled or not scaler.is_enabled():
            return None
        return getattr(scaler, "_scale", None)

    def receive(self, *, wait: bool = False) -> None:
        """Keep what has arrived; in the training's own thread."""
        if self._is_over:
            self.end_step()
        self._last_received = time.perf_counter()
        for (step, seconds, learning_rate, counts, bad), cargo in self._ferry.arrived(len(self._ferry) if wait else 0):
            self._logbook.numbers(step, seconds, cargo, learning_rate, counts=counts, bad=bad)

    def _judge_now_and_then(self, now: float) -> None:
        if now - self._last_judged < JUDGE_EVERY_S or not self._budget.may_judge():
            return
        begun = time.perf_counter()
        self._logbook.judge(self.step)
        self._last_judged = time.perf_counter()
        self._spend("findings", begun)

    def _spend(self, what: str, begun: float) -> None:
        self._budget.spend(what, time.perf_counter() - begun, self._num_steps)
