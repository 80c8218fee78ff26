"""A whole trace of a real training step: hooks for that step alone, numbers and gradients as they would be without.

The recorder is active inside of the watched modules' own forward calls (a function mode that outlived one could be left
in the wrong order by the user's contexts); ops of the loss are on the tape all the same, and known by their nodes.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import torch

from gradtrace.measure.assembly import assemble
from gradtrace.measure.deferred import Deferred
from gradtrace.measure.description import describe, read_saved
from gradtrace.measure.forward import ForwardObserver
from gradtrace.measure.gradients import GradientTap
from gradtrace.measure.session import Backward, Forward, batch_size_of
from gradtrace.measure.trace import environment
from gradtrace.measure.untouched import paused_collection
from gradtrace.tape.graph import Graph, release, walk
from gradtrace.tape.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

    from gradtrace.records.trace import Trace


class Sample:
    """The trace of the next backward pass through `model`; `close` takes every hook away, whatever became of it."""

    def __init__(self, model: nn.Module, roots: Sequence[nn.Module]) -> None:
        self.seconds = 0.0
        self._model = model
        self._deferred = Deferred()
        self._observer = ForwardObserver(self._deferred)
        self._recorder = Recorder(model, self._observer)
        self._depth = 0
        self._batch_size: int | None = None
        self._under_way: tuple[Forward, GradientTap] | None = None
        self._handles: list[RemovableHandle] = []
        for root in roots:
            self._handles.append(root.register_forward_pre_hook(self._enter, with_kwargs=True, prepend=True))
            self._handles.append(root.register_forward_hook(self._leave, always_call=True))

    def close(self) -> None:
        """Take every hook away."""
        while self._handles:
            self._handles.pop().remove()
        if self._depth:
            self._depth = 0
            self._recorder.__exit__(None, None, None)
        if self._under_way is not None:
            self._under_way[1].__exit__(None, None, None)
            self._under_way = None

    def _enter(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        begun = time.perf_counter()
        self._depth += 1
        if self._depth == 1 and torch.is_grad_enabled():
            self._batch_size = self._batch_size or batch_size_of((args, kwargs))
            self._recorder.__enter__()
        self.seconds += time.perf_counter() - begun

    def _leave(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        begun = time.perf_counter()
        self._depth = max(0, self._depth - 1)
        if not self._depth and self._recorder.entered:
            self._recorder.__exit__(None, None, None)
        self.seconds += time.perf_counter() - begun

    def before_backward(self, loss: Tensor) -> None:
        """Hook every node behind `loss`."""
        if loss.grad_fn is None or not self._recorder.visits:
            return
        begun = time.perf_counter()
        graph = walk([loss.grad_fn])
        forward = Forward(
            self._model, loss, self._recorder, self._observer, self._deferred, self._batch_size, graph, {}
        )
        with torch.no_grad(), paused_collection():
            read_saved(forward)
        tap = GradientTap(graph, self._deferred, self._batch_size)
        tap.__enter__()
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
            notes = ["of a training step; functions of the loss are known by their nodes only"]
            notes += [f"the loss was scaled by {float(scale):g}"] if scale is not None else []
            trace = assemble(self._model, forward, backward, tape, "loss", tuple(notes), environment())
            forward.graph = Graph((), (), {})
            del forward, tap, backward, tape
        self.seconds += time.perf_counter() - begun
        return trace
