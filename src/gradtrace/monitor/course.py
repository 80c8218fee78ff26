"""The course of a training, followed from one hook to the next: when a step is over, and what is measured in it.

Two tiers: fused norms of the gradients at every step (and now and then of weights and updates), whole traces at
sampled steps; `schedule` decides. `boundaries` tells what happens, `tally` measures, `logbook` keeps.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from gradtrace.diagnosis.scene import is_finite
from gradtrace.errors import NonfiniteError
from gradtrace.monitor.calls import Calls
from gradtrace.monitor.entrances import Entrances
from gradtrace.monitor.ferry import Ferry
from gradtrace.monitor.flight import FlightRecorder, explain
from gradtrace.monitor.hindsight import Hindsight, is_ahead, verdict
from gradtrace.monitor.replay import NONE
from gradtrace.monitor.sample import Sample
from gradtrace.monitor.tally import Tally, total
from gradtrace.monitor.updates import Updates
from gradtrace.records.run import EventKind
from gradtrace.tape.private import anything_compiled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn
    from torch.amp.grad_scaler import GradScaler
    from torch.optim import Optimizer

    from gradtrace.monitor.entrances import Visitor
    from gradtrace.monitor.flight import Passage
    from gradtrace.monitor.logbook import Logbook
    from gradtrace.monitor.schedule import Budget
    from gradtrace.monitor.watched import Watched

RECEIVED_TOGETHER, RECEIVE_EVERY_S = 16, 0.25
"""[steps, seconds] Numbers are kept waiting: what is done to many in a row is done while its code is in the cache."""

JUDGE_EVERY_S = 5.0
"""[seconds] Between two looks for findings while the run goes on."""

SELDOM_FRAC = 0.1
"""[fraction of the steps] Fewer than so many with norms are worth a note."""


class Course:
    """From `begin` to `end`; the methods of a `boundaries.Listener` between them."""

    def __init__(self, watched: Watched, logbook: Logbook, budget: Budget, on_nonfinite: str) -> None:
        self._watched, self._logbook, self._budget = watched, logbook, budget
        self._on_nonfinite = on_nonfinite
        self._began = self._entered = time.perf_counter()
        self._usual_spans: deque[float] = deque(maxlen=9)
        self._last_judged = self._last_received = self._last_end = self._began
        self._ferry = Ferry()
        self._updates = Updates(watched)
        self._calls = Calls()
        self._entrances: Entrances | None = None
        self._flight = FlightRecorder(self._calls)
        self._hindsight = Hindsight(watched)
        self._sample: Sample | None = None
        self._scaler: GradScaler | None = None
        self._active: set[int] = set()
        self._usual_backwards = 1
        self._no_scale_helps = self._is_replaying = False
        self._may_look = True
        self._last_loss: Tensor | None = None
        self._num_measured, self._is_measuring = 0, True
        self._arrivals: list[tuple[int, int]] | None = None
        self._loss_value: float | None = None
        self._calls_before = 0
        self._hooks_s = 0.0
        self._thread = threading.get_ident()
        """Of the latest backward pass: the tape is recorded only where it is walked as well."""
        self.step = logbook.first_step
        self._begin_step()

    def begin(self, visitor: Visitor) -> None:
        """Have `visitor` (this course, guarded) told of the models' calls."""
        self._visitor = visitor
        if not self._watched.compiled:
            self._entrances = Entrances(self._watched.roots, visitor)

    def end(self) -> None:
        """Keep what has arrived, and take every hook away."""
        self.receive(wait=True)
        self._look_back(self._hindsight.at_last())
        self.leave()
        if self._num_measured < SELDOM_FRAC * self._num_steps:
            told = f"gradient norms were taken at {self._num_measured} of {self._num_steps} steps"
            self._logbook.note(self.step, f"{told}: the budget allows no more")

    def leave(self) -> None:
        """Take every hook away; more than once does no harm."""
        if self._entrances is not None:
            self._entrances.close()
        if self._sample is not None:
            self._sample.close()
            self._sample = None
        self._calls.forget()
        self._flight.forget()
        self._hindsight.forget()

    # -------------------------------------------------------------------------------------------------- what hooks tell

    def entered(self, label: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A watched module is called."""
        if self._is_replaying:
            return
        if self._is_over:
            self.end_step()
        begun = time.perf_counter()
        if self._entered <= self._last_end:  # the first call of this step
            self._entered = begun
        self._calls.entered(label, module, args, kwargs)
        self._hooks_s += time.perf_counter() - begun
        if self._sample is not None and threading.get_ident() == self._thread:
            self._sample.entered(args, kwargs)

    def left(self, _label: str, output: Any) -> None:
        """It returned, or raised."""
        if self._is_replaying:
            return
        if self._sample is not None and threading.get_ident() == self._thread:
            self._sample.left()
        begun = time.perf_counter()
        self._calls.left(output)
        self._hooks_s += time.perf_counter() - begun

    def forward_is_over(self) -> None:
        """``loss.backward`` was called."""
        if self._sample is not None:
            self._sample.end_forward()

    def before_backward(self, roots: Sequence[Tensor], create_graph: bool) -> None:
        """The loss is known, the gradients are not."""
        if self._is_over:
            self.end_step()
        begun = time.perf_counter()
        loss, self._thread = roots[0], threading.get_ident()
        is_called = self._calls.num_calls != self._calls_before
        self._arrivals = None if is_called else self._watched.arrivals()
        self._loss_value, self._is_loss_bad = None, False
        self._may_look = self._may_look_at(loss)
        if self._may_look and loss.numel() == 1:
            self._loss_value = value = loss.item()
            # a scaler lets go of its own infinities
            self._is_loss_bad = math.isnan(value) or (math.isinf(value) and self._scale is None)
        if not self._logbook.is_explained:
            self._flight.before_backward(loss, is_finite=not self._is_loss_bad if self._may_look else None)
        self._hooks_s += time.perf_counter() - begun
        if self._sample is not None and not create_graph:
            self._sample.before_backward(loss)

    def backward_failed(self) -> None:
        """It raised: nothing of its tape is held on to."""
        if self._sample is not None:
            self._sample.close()
            self._sample = None
        self._calls.forget()
        self._flight.forget()

    def after_backward(self, roots: Sequence[Tensor]) -> None:
        """The gradients are there, and nobody has clipped them yet."""
        begun = time.perf_counter()
        if self._arrivals is not None and self._arrivals == self._watched.arrivals():
            return  # of another model
        self._calls_before = self._calls.num_calls
        span, scale = begun - self._entered, self._scale
        self._tally.add_loss(roots[0], self._loss_value, scale)
        self._is_measuring = self._is_measuring or self._looks_bad()
        bad, norms = self._is_loss_bad, None
        self._hooks_s += time.perf_counter() - begun
        if self._is_measuring and self._tally.num_backwards < self._usual_backwards:
            self._last_loss = roots[0].detach()
        elif self._is_measuring:
            begun = time.perf_counter()
            norms = self._tally.measure_gradients(scale)
            if self._may_look_at(norms):
                settled = scale is None or self._no_scale_helps
                bad = bad or (settled and not math.isfinite(total(norms.detach().cpu().numpy())))
            self._spend("norms", begun)
        if self._sample is None:
            self._usual_spans.append(span)
        elif (trace := self._sample.after_backward(scale)) is not None:
            begun = time.perf_counter()
            if scale is None or self._no_scale_helps or is_finite(trace):  # a scaler lets go of an overflow
                self._logbook.trace(self.step, trace)
            slower = span - statistics.median(self._usual_spans) if self._usual_spans else 0.0
            self._budget.spend("trace", max(slower, 0.0), self._num_steps)  # in hooks, between the user's own ops
            self._spend("trace", begun)
            self._end_sample()  # one backward pass is enough, however many the step has
        if bad:
            self._explain(self._flight.passage(roots[0], self.step))
            return
        if not self._may_look and scale is None and not self._logbook.is_explained:
            begun = time.perf_counter()
            found = verdict(roots[0], self._watched.sentinel(), norms)
            self._hindsight.add(self._flight.passage(roots[0].detach(), self.step), found)
            self._hooks_s += time.perf_counter() - begun
        else:
            self._calls.went_well()
        self._flight.forget()

    def before_step(self, optimizer: Optimizer) -> None:
        """Clipped and unscaled; the weights are still as the gradients saw them."""
        begun = time.perf_counter()
        if not self._stepped:
            self._learning_rate = self._watched.learning_rate()  # a scheduler may change it before the step is over
        if self._hindsight.is_waiting:
            self._look_back(self._hindsight.before_step(optimizer))
            self._spend("hooks", begun)
            begun = time.perf_counter()
        if self._is_measuring:
            is_new = not self._tally.is_measured
            norms = self._tally.before_step(self._watched.held_by(optimizer))
            self._spend("norms", begun)
            if is_new and norms is not None and self._scale is None and self._may_look_at(norms):
                bad = not math.isfinite(total(norms.detach().cpu().numpy()))
                if bad and not self._is_bad and self._last_loss is not None:
                    self._explain(
                        self._flight.passage(self._last_loss, self.step)
                    )  # fewer backward passes than usual: nobody looked yet
        if not self._stepped and self._is_measuring and self._budget.may_update(self._num_steps):
            begun = time.perf_counter()
            self._tally.remember_weights()
            self._spend("updates", begun)
        if self._on_nonfinite == "skip" and self._watched.is_spoilt(optimizer):
            for parameter in [parameter for group in optimizer.param_groups for parameter in group["params"]]:
                parameter.grad = None
            self._logbook.event(self.step, EventKind.SKIPPED, "this optimizer step was left out: not finite")

    def after_step(self, optimizer: Optimizer) -> None:
        """The weights have moved; with several optimizers a step is over when all have, or one does again."""
        if id(optimizer) in self._stepped:
            self.end_step()
        self._stepped.add(id(optimizer))
        self._no_scale_helps = False
        self._is_over = self._stepped >= self._active  # others may follow that were never seen before
        if self._is_over and self._updates.is_holding:
            begun = time.perf_counter()
            self._tally.compare_weights()
            self._spend("updates", begun)

    def scaled_by(self, scaler: GradScaler) -> None:
        """Losses are multiplied from now on."""
        self._scaler = scaler

    def step_left_out(self, optimizer: Optimizer) -> None:
        """By a scaler, for an overflow."""
        self._logbook.event(self.step, EventKind.SKIPPED, "the GradScaler left the step out: overflow")
        self._is_left_out = True
        scale = self._scale
        self._no_scale_helps = scale is not None and float(scale) <= 1.0
        self.end_step()

    def end_step(self) -> None:
        """Send the numbers off, and begin anew."""
        self._is_over = False
        begun = time.perf_counter()
        if self._hindsight.is_waiting and not self._stepped:  # whoever moves the weights is not seen
            self._look_back(self._hindsight.at_last())
        self._active |= self._stepped
        if self._is_measuring or self._is_bad or self._is_left_out:
            counts = self._tally.has_loss and not self._is_left_out  # a scaler that finds its scale is healthy
            what = (self.step, begun - self._began, self._learning_rate, counts, self._is_bad)
            self._ferry.send(what, self._tally.cargo())
            self._num_measured += self._tally.is_measured
            self._spend("norms", begun)
        begun = time.perf_counter()
        if len(self._ferry) >= RECEIVED_TOGETHER or begun - self._last_received > RECEIVE_EVERY_S:
            self.receive()
        self._usual_backwards = max(1, self._tally.num_backwards)
        self._calls.forget()
        self._end_sample()
        self._judge_now_and_then(begun)
        self.step += 1
        self._begin_step()
        self._last_end = time.perf_counter()
        self._budget.spend("hooks", self._hooks_s + self._last_end - begun, self._num_steps)
        self._hooks_s = 0.0

    # ------------------------------------------------------------------------------------------------------- inside

    def _begin_step(self) -> None:
        self._tally, self._stepped = Tally(self._watched, self._updates), set[int]()
        self._is_measuring = self._on_nonfinite != "report" or self._budget.may_measure(self._num_steps)
        self._learning_rate = math.nan
        self._is_bad = self._is_left_out = self._is_loss_bad = self._is_over = False
        if self._num_steps == 1 and self._entrances is not None and not self._calls.num_calls:
            self._look_at_the_parts()
        if self._budget.may_trace(self._num_steps):
            begun = time.perf_counter()
            why_not = self._why_not_traced()
            if not why_not:
                self._sample = Sample(self._watched.whole)
                return
            self._logbook.note(self.step, why_not)
            self._spend("trace", begun)  # and it is long before that is asked again

    def _why_not_traced(self) -> str:
        """Why no step can be traced; empty where one can."""
        if self._watched.compiled:
            return "a model is compiled: norms are taken, whole traces are not"
        if anything_compiled():
            return "functions are compiled: no whole traces are taken, they would compile again"
        return "parts are scripted (torch.jit): no whole traces are taken" if self._watched.scripted else ""

    def _end_sample(self) -> None:
        if self._sample is not None:
            self._sample.close()
            self._budget.spend("trace", self._sample.seconds, self._num_steps)
            self._sample = None

    def _look_at_the_parts(self) -> None:
        """The module itself was never called: its children may be."""
        assert self._entrances is not None
        self._entrances.close()
        self._watched.descend()
        self._entrances = Entrances(self._watched.roots, self._visitor)

    def _may_look_at(self, tensor: Tensor) -> bool:
        """Whether its numbers may be read now, or else have to be waited for."""
        ahead = is_ahead(tensor.device) and self._hindsight.fits
        return not ahead or self._no_scale_helps or self._on_nonfinite != "report"

    def _looks_bad(self) -> bool:
        """Where norms are not taken: whether the gradient that all others flow into says that they should be."""
        sentinel = self._watched.sentinel()
        return sentinel is not None and not is_ahead(sentinel.device) and not math.isfinite(float(sentinel.sum()))

    @property
    def _num_steps(self) -> int:
        """Of this run of the script."""
        return self.step - self._logbook.first_step

    @property
    def _scale(self) -> Tensor | None:
        scaler = self._scaler
        return getattr(scaler, "_scale", None) if scaler is not None and scaler.is_enabled() else None

    def receive(self, *, wait: bool = False) -> None:
        """Keep what has arrived; in the training's own thread."""
        if self._is_over:
            self.end_step()
        self._last_received = time.perf_counter()
        for (step, seconds, learning_rate, counts, bad), cargo in self._ferry.arrived(len(self._ferry) if wait else 0):
            self._logbook.numbers(step, seconds, cargo, learning_rate, counts=counts, bad=bad)

    def _look_back(self, found: tuple[Passage, Mapping[int, Tensor]] | None) -> None:
        if found is not None:
            self._explain(*found)
            self._hindsight.forget()

    def _explain(self, passage: Passage, weights: Mapping[int, Tensor] = NONE) -> None:
        """The first time: where was it born? From then on it is only counted."""
        self._is_bad |= passage.step == self.step
        if not self._logbook.is_explained:
            self._is_replaying = True  # its calls are none of the training's
            try:
                finding, trace = explain(passage, self._logbook.latest_ops, weights)
            finally:
                self._is_replaying = False
            self._logbook.nonfinite(passage.step, finding, trace)
        if self._on_nonfinite == "stop":
            raise NonfiniteError(self._logbook.findings()[0].message)

    def _judge_now_and_then(self, now: float) -> None:
        if now - self._last_judged < JUDGE_EVERY_S or not self._budget.may_judge():
            return
        begun = time.perf_counter()
        self._logbook.judge(self.step)
        self._last_judged = time.perf_counter()
        self._spend("findings", begun)

    def _spend(self, what: str, begun: float) -> None:
        self._budget.spend(what, time.perf_counter() - begun, self._num_steps)
