"""A whole trace of a real training step: hooks for that step alone, numbers and gradients as they would be without.

The recorder is active from the first call of a watched module to the backward pass, so that the ops of the loss have
their source lines too. In between it lies below the function modes of the user, which come and go above it. It stays
away from calls that are passed by (`dropped`).
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gradtrace.measure.assembly import assemble
from gradtrace.measure.deferred import Deferred
from gradtrace.measure.description import describe, read_saved
from gradtrace.measure.forward import ForwardObserver
from gradtrace.measure.gradients import GradientTap
from gradtrace.measure.session import Backward, Forward, batch_size_of
from gradtrace.measure.trace import environment
from gradtrace.measure.untouched import paused_collection
from gradtrace.monitor.hooks.patches import interpose
from gradtrace.monitor.traces.observer import StepObserver
from gradtrace.recurrence.in_step import Recurrences, with_chains
from gradtrace.tape.gathered import class_of
from gradtrace.tape.graph import Graph, release, walk
from gradtrace.tape.private import children_of, sink_mode
from gradtrace.tape.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from gradtrace.measure.derivative import Derivatives
    from gradtrace.monitor.nonfinite.forward_calls import Call
    from gradtrace.records.trace import Trace


_NO_LOSS = (
    "the backward pass began at {:,} numbers with a gradient that was given to it (a stage of a pipeline?), and not at "
    "a loss: what is called the loss here is their norm"
)


class Sample:
    """The trace of the next backward pass through `model`; `close` takes every hook away, whatever became of it.

    `derivatives`: of the custom functions that were looked at.
    """

    def __init__(self, model: nn.Module, derivatives: Derivatives) -> None:
        self.seconds = 0.0
        self.why_not = self.remark = ""
        self._model, self._derivatives = model, derivatives
        self._deferred = Deferred()
        self._observer = ForwardObserver(self._deferred)
        self._recurrences = Recurrences(model)
        self._recorder = Recorder(model, StepObserver(self._observer, self._recurrences))
        self._depth = 0
        self._batch_size: int | None = None
        self._under_way: tuple[Forward, GradientTap] | None = None
        self._is_given_up = False
        self._is_without_modules = not children_of(model) and type(model) is nn.Module
        self.thread: int | None = None
        """In which functions of torch are seen."""
        self._look_away: Callable[[], None] = _nothing

    def close(self) -> None:
        """Take every hook away; more than once does no harm."""
        self.end_forward()
        if self._under_way is not None:
            self._under_way[1].__exit__(None, None, None)
            self._under_way = None
        self._recurrences.close()

    def entered(self, _call: Call | None, args: Any, kwargs: Any, *, begins_anew: bool = False) -> None:
        """A watched module is called; `begins_anew`: the tapes of those before it were dropped."""
        begun = time.perf_counter()
        self._depth += 1
        if self._depth == 1 and torch.is_grad_enabled() and self._under_way is None and not self._is_given_up:
            self._batch_size = None if begins_anew else self._batch_size
            self._look(args, kwargs)
        self.seconds += time.perf_counter() - begun

    def _look(self, args: Any, kwargs: Any) -> None:
        self._batch_size = self._batch_size or batch_size_of((args, kwargs))
        if self._recorder.entered:
            self._recorder.watch_modules()
        else:
            self.enter()

    def enter(self) -> None:
        """Every function of torch is seen from now on, in this thread."""
        self._recorder.__enter__()
        sink_mode(self._recorder)
        self.thread = threading.get_ident()
        self._look_away = interpose(torch, "compile", self._give_up).remove

    def left(self, _output: Any) -> None:
        """It returned: its modules are the user's alone again, which may be copied and saved."""
        begun = time.perf_counter()
        self._depth = max(0, self._depth - 1)
        if not self._depth:
            self._recorder.leave_modules()
        self.seconds += time.perf_counter() - begun

    def end_forward(self) -> None:
        """Leave the recorder before ``loss.backward``: after a torch function, torch puts back the mode it called."""
        self._look_away()
        self._look_away = _nothing
        if self._recorder.entered:
            self._recorder.__exit__(None, None, None)

    def _give_up(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Something is compiled: under a function mode it would compile otherwise, or not at all."""
        if threading.get_ident() == self.thread:
            self._is_given_up = True
            self.end_forward()
        return own(*args, **kwargs)

    def before_backward(self, loss: Tensor) -> None:
        """Hook every node behind `loss`."""
        begun = time.perf_counter()
        self.end_forward()
        is_seen = bool(self._recorder.visits) or self._is_without_modules
        if loss.grad_fn is None or self._is_given_up or not is_seen:
            return
        graph = walk([loss.grad_fn])
        forward = Forward(
            self._model, loss, self._recorder, self._observer, self._deferred, self._batch_size, graph, {}
        )
        with torch.no_grad(), paused_collection():
            read_saved(forward)
        tap = GradientTap(graph, self._deferred, self._batch_size)
        tap.__enter__()
        self._recurrences.arm(graph.nodes)
        self._under_way = forward, tap
        self.seconds += time.perf_counter() - begun

    def after_backward(self, scale: Tensor | None) -> Trace | None:
        """The trace, its gradients as they are: multiplied by a scaler's `scale`, if there is one."""
        if self._under_way is None:
            return None
        begun = time.perf_counter()
        forward, tap = self._under_way
        self._under_way = None
        tap.__exit__(None, None, None)
        with paused_collection(), contextlib.ExitStack() as last:
            last.callback(release, list(forward.graph.nodes))
            names = [node.name() for node in forward.graph.nodes]
            tape = describe(forward, self._model)
            backward = Backward(forward.graph, names, tap, {})
            notes = [f"the loss was scaled by {float(scale):g}"] if scale is not None else []
            notes += [_NO_LOSS.format(forward.loss.numel())] if forward.loss.numel() != 1 else []
            trace = assemble(self._model, forward, backward, tape, "loss", tuple(notes), environment())
            chains = self._recurrences.chains(forward.graph.nodes, trace.ops)
            trace = with_chains(trace, class_of(self._model).__name__, chains, 1.0 if scale is None else float(scale))
            trace = replace(trace, derivatives=self._derivatives.of(self._recorder.customs.first.values()))
            self.remark = self._recurrences.fault
            forward.graph = Graph((), (), {})
            del forward, tap, backward, tape
        self.seconds += time.perf_counter() - begun
        return trace


def _nothing() -> None:
    """Nobody looks at what is compiled."""
