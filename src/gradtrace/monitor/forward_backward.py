"""Forward and backward passes: what is held of them, counted, measured, traced, and looked at for a NaN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from gradtrace.diagnosis.scene import is_finite
from gradtrace.monitor.traces.copies import Copies
from gradtrace.monitor.traces.dropped import Dropped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from gradtrace.monitor.rooms import Rooms


class ForwardBackward:
    """A `hooks.PassListener`."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._row, self._passes, self._detector = rooms.row, rooms.passes, rooms.detector
        self._sampler, self._calls, self._owner = rooms.sampler, rooms.calls, rooms.owner
        self._spending = rooms.schedule.spending
        self._copies = Copies()
        self._depth = 0
        """Of watched modules that are being called."""
        self._dropped: Dropped | None = Dropped()
        """None: a pass went through calls that were like others whose tape had been dropped; none is passed by."""

    @property
    def is_tracing(self) -> bool:
        """Whether the step at hand is traced whole."""
        return self._sampler.is_open

    def entered(self, label: str, module: nn.Module, args: Any, kwargs: Any, function: Any = None) -> Any:
        """A watched module is called, or a compiled function."""
        if self._detector.is_replaying or self._depth or self._rooms.rest.is_on or not self._owner.is_here:
            return None
        is_ours = self._owner.is_surely_here  # the tape is recorded where it is walked
        with self._spending("hooks"):
            self._depth += 1
            if function is None:
                self._calls.count(label)
            dropped = self._dropped if is_ours and function is None and torch.is_grad_enabled() else None
            if dropped is not None:
                dropped.come((args, kwargs), counts=self._sampler.is_open)
                if dropped.passes_by:
                    self._sampler.end_forward()
                    return None, dropped
            call = self._calls.entered(label, module, args, kwargs, function)
        if is_ours:
            self._sampler.entered(call, args, kwargs, begins_anew=dropped is not None and dropped.has_more)
        return call, dropped

    def left(self, token: Any, output: Any) -> None:
        """It returned, or raised."""
        self._depth -= 1
        call, dropped = token
        if call is not None or dropped is not None:
            with self._spending("hooks"):
                if call is not None:
                    self._calls.left(call, output)
                if dropped is not None:
                    dropped.left(output)
                    if dropped.passes_by:
                        return
        self._sampler.left(output)

    def forward_is_over(self) -> None:
        """``loss.backward`` was called."""
        if self._owner.is_here and self._sampler.is_here:
            self._sampler.end_forward()

    def begins_at_edges(self) -> None:
        """A backward pass begins, and nobody holds what it begins with: its gradients are measured before the step."""
        if self._owner.is_here and self._sampler.is_here:
            self._sampler.leave("its backward pass began at an edge of the tape, whose tensor was gone")

    def before_backward(self, roots: Sequence[Tensor], create_graph: bool) -> bool:
        """The loss is known, the gradients are not."""
        is_within_another = self._passes.is_running and self._owner.is_here
        if self._detector.is_replaying or is_within_another or not self._owner.has(roots):
            return False
        with self._spending("hooks"):
            if self._rooms.ranks is not None:
                self._rooms.ranks.own.loss_is_there()
            self._rooms.loss_scale.before_first_backward()
            self._passes.begin()
            wanted = self._rooms.uncleared.wants(self._row.count.expected, is_traced=self._sampler.is_open)
            self._rooms.uncleared.before_backward(looks=wanted and self._passes.is_first)
        with self._spending("walks"):
            self._rooms.strangers.before_backward(self._row.count.expected, roots)
            self._rooms.astray.before_backward(roots, is_known=self._passes.is_known)
        with self._spending("hooks"):
            self._detector.before_backward(roots, self._rooms.loss_scale.of_loss)
            if self._passes.is_known:
                self._count(roots)
        if self._rooms.strangers.is_due:
            with self._spending("findings"):
                self._rooms.strangers.tell()
        is_whole = self._dropped is None or not self._dropped.has_missed
        self._sampler.before_backward(roots[0], create_graph, is_whole=is_whole)
        if not is_whole:
            self._dropped = None
        elif self._dropped is not None:
            self._dropped.pass_ended()
        return True

    def backward_failed(self, roots: Sequence[Tensor]) -> None:
        """It raised."""
        self._passes.fail()
        self._detector.backward_failed(roots, self._rooms.step)
        self._sampler.abandon()
        self._calls.forget()

    def after_backward(self, roots: Sequence[Tensor]) -> None:
        """The gradients are there, and nobody has clipped them yet."""
        detector, passes = self._detector, self._passes
        with self._spending("hooks"):
            was_known = passes.is_known
            if not passes.end():
                self._owner.num_others += 1
                detector.of_another_model()
                return
            if not was_known:
                self._count(roots)
            is_odd = not (self._row.is_measured and passes.is_last) and detector.sees_odd_gradient()
            self._row.is_measured |= is_odd
        norms = self._measured(roots)
        with self._spending("hooks"):
            # where an optimizer has stepped within the pass, the row is at hand
            step = self._row.number if passes.numbers.is_taken else self._rooms.step
            is_bad = detector.after_backward(roots, norms, passes.scale, is_odd and norms is None)
            passes.numbers.is_bad |= is_bad
        if self._sampler.is_open:
            self._trace(step)
        with self._spending("hooks"):
            self._rooms.uncleared.after_backward(step)
            was_explained = self._rooms.recording.judging.is_explained
            detector.judge(roots, step, norms, passes.scale, is_bad=is_bad)
            is_told = self._rooms.recording.judging.is_explained and not was_explained
            is_before_step = not passes.numbers.is_taken and passes.closure_of is None
            self._row.explained = step if is_told and is_before_step else None
            if passes.closure_of is not None:
                detector.leave_out_if_spoilt(passes.closure_of, step)

    def loss_divided(self, by: float) -> None:
        """The gradients of a step's passes are divided: its loss was their mean, and not their sum."""
        if self._owner.is_here and not self._passes.numbers.is_taken:
            self._passes.numbers.divide_loss(by)

    def gradients_settled(self, module: nn.Module) -> None:
        """Whoever ran several passes has brought the gradients of `module` to what its optimizer will see."""
        if self._owner.is_here and not self._passes.numbers.is_taken:
            with self._spending("norms"):
                self._passes.numbers.measure_part(self._rooms.watched.columns_of(module), self._passes.scale)

    def _count(self, roots: Sequence[Tensor]) -> None:
        """Of a pass that is the training's for sure."""
        self._row.is_measured |= self._passes.count(roots, self._detector.loss_value)

    def _measured(self, roots: Sequence[Tensor]) -> Tensor | None:
        """The norms of all gradients, where they are whole."""
        passes = self._passes
        if passes.is_last and self._row.is_measured and not passes.numbers.is_taken:
            with self._spending("norms"):
                return passes.numbers.measure(passes.scale)
        if self._row.is_measured:
            self._detector.remember(roots)
        return None

    def _trace(self, step: int) -> None:
        """Complete the step's whole trace, and keep it; a scaler lets go of an overflow."""
        scale = self._passes.scale
        self._detector.is_replaying = True  # what is compiled is called once more
        try:
            trace = self._sampler.after_backward(scale)  # which accounts for its time itself
        finally:
            self._detector.is_replaying = False
        if trace is not None and (scale is None or self._detector.no_scale_helps or is_finite(trace)):
            with self._spending("traces"):
                keeper = self._rooms.recording if self._rooms.ranks is None else self._rooms.ranks
                keeper.trace(step, trace, self._sampler.kind)
                self._rooms.recording.judging.copies = self._copies.look(self._rooms.watched.whole.named_parameters())
