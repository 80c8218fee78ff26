"""Which steps of a training are traced whole, and what became of that?

A sample is open from the first call of a step to the backward pass that it is of; most steps have none. Where nothing
is called (tensors that are trained without a module) it is open from the end of the step before.

Where optimizers step after passes of their own (a GAN's two), passes of different kinds are traced by turns: neither
tells of the other's illness. A kind is the set of optimizers whose parameters a pass reaches.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from gradtrace.measure.derivative import Derivatives
from gradtrace.monitor.traces.compiled import CompiledSample
from gradtrace.monitor.traces.sample import Sample
from gradtrace.tape.gathered import gathers
from gradtrace.tape.graph import reached_leaves
from gradtrace.tape.private import anything_compiled, backward_is_compiled

if TYPE_CHECKING:
    from torch import Tensor

    from gradtrace.monitor.nonfinite.forward_calls import Call
    from gradtrace.monitor.recording.recording import Recording
    from gradtrace.monitor.schedule.schedule import Schedule
    from gradtrace.monitor.watched import Watched
    from gradtrace.records.trace import Trace

Kind = frozenset[int]
"""Which optimizers' parameters a backward pass reaches, by their places in `Watched.optimizers`; empty where all
step after the same passes."""

MOST_MISSED = 16
"""[steps] A critic may take some more steps than the generator; then whatever pass comes is traced."""


class Sampler:
    """Steps are numbered from 0 at the beginning of this run of the script."""

    def __init__(self, watched: Watched, recording: Recording, schedule: Schedule) -> None:
        self._watched, self._recording, self._schedule = watched, recording, schedule
        self._sample: Sample | CompiledSample | None = None
        self._step = self._num_parameters = 0
        self._nums: dict[Kind, int] = {}
        """Traces of each kind of pass, since the last optimizer joined; first the one whose latest is the oldest."""
        self._num_optimizers = 0
        self._are_several = self._waits = False
        """Whether passes are of several kinds; whether the step may have one of a kind that has had fewer traces."""
        self._num_missed = 0
        """Steps in a row that had none; after `MOST_MISSED` nobody waits until one has come by chance."""
        self.kind: Kind = frozenset()
        """Of the pass that is being traced."""
        self._told: set[str] = set()
        self._derivatives = Derivatives()

    @property
    def is_open(self) -> bool:
        """Whether the step at hand is traced."""
        return self._sample is not None

    @property
    def is_here(self) -> bool:
        """Whether what is recorded is of this thread: whose training it is, the first backward pass tells."""
        return self._sample is None or self._sample.thread in (None, threading.get_ident())

    @property
    def lacks_some(self) -> bool:
        """Whether some of the parameters that are watched were not when the recording began."""
        return self._sample is not None and len(self._watched.parameters) > self._num_parameters

    def begin(self, step: int, *, is_urgent: bool, num_blocks: int) -> bool:
        """A step begins; it is traced where the schedule and the model allow: did the schedule?"""
        self._schedule.num_kinds = num_blocks
        if self._sample is not None or not self._schedule.wants_trace(step, is_urgent=is_urgent):
            return False
        begun = time.perf_counter()
        why_not = self._why_not()
        if why_not:
            self._recording.note(self._recording.first_step + step, why_not)
            self._schedule.done("traces", step)
        else:
            whole, is_compiled, self._step = self._watched.whole, self._is_compiled, step
            self._num_parameters = len(self._watched.parameters)
            self._sample = CompiledSample(whole) if is_compiled else Sample(whole, self._derivatives)
            self._are_several = num_blocks > 1 and not is_compiled
            self._waits = self._are_several and self._num_missed < MOST_MISSED
            if not self._watched.models:
                self._sample.enter()
        self._schedule.spend("traces", time.perf_counter() - begun)
        return True

    def entered(self, call: Call | None, args: Any, kwargs: Any, *, begins_anew: bool) -> None:
        """A watched module is called; `call` is what is held of it; `begins_anew`: tapes before it were dropped."""
        if self._sample is not None:
            self._sample.entered(call, args, kwargs, begins_anew=begins_anew)

    def left(self, output: Any) -> None:
        """It returned `output`, or raised (None)."""
        if self._sample is not None:
            self._sample.left(output)

    def end_forward(self) -> None:
        """``loss.backward`` was called."""
        if self._sample is not None:
            self._sample.end_forward()

    def before_backward(self, loss: Tensor, create_graph: bool, *, is_whole: bool) -> None:
        """The tape is there, and `is_whole`: all of it was recorded. Is the pass to be traced?"""
        if self._sample is None or create_graph:
            return
        if not is_whole:
            self._sample.end_forward()
            return
        begun = time.perf_counter()
        if len(self._watched.optimizers) != self._num_optimizers:
            self._num_optimizers = len(self._watched.optimizers)
            self._nums.clear()
        self.kind = self._kind_of(loss) if self._are_several else frozenset()
        is_turn = not self._waits or self._is_turn(self.kind)
        self._schedule.spend("traces", time.perf_counter() - begun)
        if is_turn:
            self._sample.before_backward(loss)
        else:
            self._sample.end_forward()

    def _is_turn(self, kind: Kind) -> bool:
        """Whether no kind has had fewer traces, or as many and none for longer.

        While only one is known, another may still come. Who opens each round of a game would else have the late ones.
        """
        num = self._nums.setdefault(kind, 0)
        fewest = min(self._nums.values())
        due = next(other for other, had in self._nums.items() if had == fewest)
        return kind == due and (num == 0 or len(self._nums) > 1)

    def _kind_of(self, loss: Tensor) -> Kind:
        reached = {id(leaf) for leaf in reached_leaves([loss])}
        parameters, held = self._watched.parameters, self._watched.held_by
        optimizers = enumerate(self._watched.optimizers)
        return frozenset(i for i, one in optimizers if any(id(parameters[column]) in reached for column in held(one)))

    def leave(self, why_not: str) -> None:
        """The step is not traced after all."""
        if self._sample is not None:
            self._sample.why_not = why_not
            self.end()

    def after_backward(self, scale: Tensor | None) -> Trace | None:
        """The trace, if this pass had one: one is enough, however many passes the step has."""
        if self._sample is None:
            return None
        trace = self._sample.after_backward(scale)
        if trace is not None:
            if self._waits or self.kind not in self._nums:
                self._num_missed = 0
            if self._are_several:
                self._nums[self.kind] = self._nums.pop(self.kind, 0) + 1
            self.end()
        return trace

    def end_step(self) -> None:
        """The step is over; where a pass was waited for, it may come in the next one."""
        if self._sample is not None and self._waits:
            self._num_missed += 1
            self._schedule.spend("traces", self._sample.seconds)
            self.abandon()
        else:
            self.end()

    def end(self) -> None:
        """No sample is open any longer."""
        if self._sample is not None:
            why = self._sample.why_not
            self._tell(f"a step was not traced: {why}" if why else "", once_for=why)
            self._tell(self._sample.remark, once_for="remark")
            self._sample.close()
            self._schedule.spend("traces", self._sample.seconds)
            self._schedule.done("traces", self._step)
            self._sample = None

    def abandon(self) -> None:
        """The same, where its time does not matter."""
        if self._sample is not None:
            self._sample.close()
            self._sample = None

    def _why_not(self) -> str:
        """Why no step can be traced; empty where one can."""
        if self._is_compiled and backward_is_compiled():
            return "backward passes are compiled: norms are taken, whole traces are not"
        if self._is_compiled and any(gathers(m) for one in self._watched.models.values() for m in one.modules()):
            return "what fully_shard spreads is compiled, and not run again: norms are taken, whole traces are not"
        return "parts are scripted (torch.jit): no whole traces are taken" if self._watched.scripted else ""

    @property
    def _is_compiled(self) -> bool:
        return self._watched.compiled or anything_compiled()

    def _tell(self, sentence: str, *, once_for: str) -> None:
        if sentence and once_for not in self._told:
            self._told.add(once_for)
            self._recording.note(self._recording.first_step + self._step, sentence)
