"""A whole trace of a real training step in which something is compiled: its calls are looked into beside the training.

Neither hooks on modules nor a function mode may be there while compiled code runs: it would compile again. So calls of
the watched modules are left alone, the rest of the step is recorded from the end of one call to the beginning of the
next or to the backward pass, and when that is over each call is made once more, uncompiled (`replayed`), from the
gradient that reached its outputs. `splice` joins the parts.
"""

from __future__ import annotations

import sys
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
from gradtrace.monitor.hooks.compiled_code import before_compiled_code, shows_calls
from gradtrace.monitor.nonfinite.replay import are_others, takes_others, unwrapped
from gradtrace.monitor.traces.outline import Looked, Unfit, found_origins, outline
from gradtrace.monitor.traces.parting import parting
from gradtrace.monitor.traces.replayed import World, look_inside
from gradtrace.monitor.traces.splice import Splice
from gradtrace.monitor.traces.whole import Placed, chains_of_calls
from gradtrace.recurrence.in_step import with_chains
from gradtrace.tape.dataflow import tensors_in
from gradtrace.tape.graph import Graph, release, walk
from gradtrace.tape.private import node_sequence_nr, sequence_nr, sink_mode
from gradtrace.tape.recorder import Recorder, Visit
from gradtrace.tape.source import source_of

if TYPE_CHECKING:
    from torch import Tensor

    from gradtrace.monitor.hooks.patches import Interposition
    from gradtrace.monitor.nonfinite.forward_calls import Call
    from gradtrace.monitor.traces.outline import Entries, Origins
    from gradtrace.records.trace import Trace

UNCOMPILED = "traced through the uncompiled code, which was called once more beside the training"
HIDDEN = (
    "this torch does not show what is called beside compiled code: functions, source lines and targets outside of the "
    "watched models were not seen"
)


class CompiledSample:
    """The trace of the next backward pass, as `Sample`; `why_not` says what came in between, `remark` what is odd."""

    def __init__(self, whole: nn.Module) -> None:
        self.seconds = 0.0
        self.why_not = self.remark = ""
        self._whole = whole
        self._deferred = Deferred()
        self._observer = ForwardObserver(self._deferred)
        self._recorder = Recorder(nn.Module(), self._observer)  # no hook on any module
        self._depth = 0
        self._batch_size: int | None = None
        self._calls: list[Looked] = []
        self._under_way: tuple[Forward, GradientTap, Entries, list[Origins]] | None = None
        self._is_shown = True
        """What happens between calls and after them."""
        self.thread: int | None = None
        """In which functions of torch are seen."""
        self._guard: Interposition | None = None

    def close(self) -> None:
        """Take every hook away; more than once does no harm."""
        self.end_forward()
        if self._under_way is not None:
            self._under_way[1].__exit__(None, None, None)
            self._under_way = None
        self._calls.clear()

    def enter(self) -> None:
        """Tensors alone are trained: there is no call to look into."""
        self.why_not = "functions are compiled, and no module is called"

    # ----------------------------------------------------------------------------------------------------- forward

    def entered(self, call: Call | None, args: Any, kwargs: Any, *, begins_anew: bool = False) -> None:
        """A watched module is called; `call` is what is held of it; `begins_anew`: tapes before it were dropped."""
        begun = time.perf_counter()
        self._depth += 1
        if self._depth == 1 and torch.is_grad_enabled() and self._under_way is None and not self.why_not:
            self.end_forward()
            self._batch_size = None if begins_anew else self._batch_size
            if call is None:
                self.why_not = "inputs are too large, or calls too many, to be held"
            else:
                self._look(call, args, kwargs)
        self.seconds += time.perf_counter() - begun

    def _look(self, call: Call, args: Any, kwargs: Any) -> None:
        model = unwrapped(call.model)
        path = next((name for name, module in self._whole.named_modules() if module is model), None)
        if path is None:
            self.why_not = f"{call.label or 'the model'} is no longer what was watched"
            return
        self._batch_size = self._batch_size or batch_size_of((args, kwargs))
        tensors = tensors_in(args) + (tensors_in(kwargs) if kwargs else [])
        made = [(tensor.grad_fn, tensor.output_nr) if tensor.grad_fn is not None else None for tensor in tensors]
        self._calls.append(Looked(call, World.of(model), path, made, sequence_nr(), source_of(sys._getframe())))

    def left(self, output: Any) -> None:
        """It returned: what follows is seen again."""
        begun = time.perf_counter()
        self._depth = max(0, self._depth - 1)
        if not self._depth and self._calls and self._calls[-1].end < 0 and not self.why_not:
            looked = self._calls[-1]
            looked.end = sequence_nr()
            looked.is_random = not torch.equal(looked.call.random_states[0], torch.default_generator.get_state())
            for index, tensor in enumerate(tensors_in(output)):
                node = tensor.grad_fn
                if node is not None and looked.start <= node_sequence_nr(node) < looked.end:
                    looked.outputs.setdefault((node, tensor.output_nr), index)
            self._record()
        self.seconds += time.perf_counter() - begun

    def _record(self) -> None:
        """Every function of torch is seen from now on, in this thread, until something compiled is called."""
        self.thread = threading.get_ident()
        self._guard = before_compiled_code(self._step_aside)
        self._is_shown &= self._guard is not None
        if self._guard is not None:
            self._recorder.__enter__()
            sink_mode(self._recorder)

    def _step_aside(self) -> None:
        if threading.get_ident() == self.thread:
            self._is_shown &= shows_calls()
            self.end_forward()

    def end_forward(self) -> None:
        """Leave the recorder before ``loss.backward``: after a torch function, torch puts back the mode it called."""
        if self._recorder.entered:
            self._recorder.__exit__(None, None, None)
        if self._guard is not None:
            self._guard.remove()
            self._guard = None

    # ---------------------------------------------------------------------------------------------------- backward

    def before_backward(self, loss: Tensor) -> None:
        """Hook every op between `loss` and the outputs of the calls, and the leaves."""
        begun = time.perf_counter()
        self.end_forward()
        if loss.grad_fn is None or self.why_not:
            return
        try:
            if not self._calls:
                raise Unfit("something is compiled, and no call of what is watched was seen")
            self._hook(loss)
        except Unfit as why:
            self.why_not = str(why)
        except Exception as error:
            self.why_not = f"its tape could not be read ({type(error).__name__}: {error})"
        self.seconds += time.perf_counter() - begun

    def _hook(self, loss: Tensor) -> None:
        assert loss.grad_fn is not None
        graph, entries = outline(walk([loss.grad_fn]), self._calls)
        for looked in self._calls:
            kind = type(unwrapped(looked.call.model)).__name__
            self._recorder.visits.append(Visit(looked.path, kind, 0, looked.start, looked.end))
        origins = [found_origins(looked, self._calls, graph) for looked in self._calls]
        forward = Forward(
            self._whole, loss, self._recorder, self._observer, self._deferred, self._batch_size, graph, {}
        )
        with torch.no_grad(), paused_collection():
            read_saved(forward)
        tap = GradientTap(graph, self._deferred, self._batch_size)
        tap.__enter__()
        self._under_way = forward, tap, entries, origins

    def after_backward(self, scale: Tensor | None) -> Trace | None:
        """The trace, its gradients as they are: multiplied by a scaler's `scale`, if there is one."""
        if self._under_way is None:
            return None
        begun = time.perf_counter()
        forward, tap, entries, origins = self._under_way
        self._under_way = None
        tap.__exit__(None, None, None)
        nodes = list(forward.graph.nodes)
        with paused_collection():
            names = [node.name() for node in nodes]
            tape = describe(forward, self._whole)
            backward = Backward(forward.graph, names, tap, {})
            notes = (UNCOMPILED, *([] if self._is_shown else [HIDDEN]))
            notes += (f"the loss was scaled by {float(scale):g}",) if scale is not None else ()
            front = assemble(self._whole, forward, backward, tape, "loss", notes, environment())
            forward.graph = Graph((), (), {})
            del forward, tap, backward, tape
            release(nodes)
        trace = None
        try:
            trace = self._joined(front, entries, origins, 1.0 if scale is None else float(scale))
        except Unfit as why:
            self.why_not = str(why)
        except Exception as error:  # the user's forward, in a situation that it was not written for
            first = str(error).strip().split("\n")[0]
            self.why_not = f"called once more without its compiler, it raised {type(error).__name__}: {first}"
        self.seconds += time.perf_counter() - begun
        return trace

    def _joined(self, front: Trace, entries: Entries, origins: list[Origins], scale: float) -> Trace:
        names = {id(parameter): name for name, parameter in self._whole.named_parameters()}
        placed = [self._placed(looked, names, origin) for looked, origin in zip(self._calls, origins, strict=True)]
        splice = Splice(front, entries, placed)
        chains = chains_of_calls(placed)
        trace = with_chains(splice.joined(), type(self._whole).__name__, chains, scale)
        found = parting(front, trace, splice.alone, is_random=any(looked.is_random for looked in self._calls))
        if found is None:
            return trace
        if found.is_beyond_rounding:
            self.remark = f"compiled and uncompiled code part: {found}"
        return replace(trace, coverage=replace(trace.coverage, notes=(*trace.coverage.notes, str(found))))

    def _placed(self, looked: Looked, names: dict[int, str], origins: Origins) -> Placed:
        call = looked.call
        gradients = {i: call.gradients[i] for i in looked.outputs.values() if i in call.gradients}
        own = {inner: names[id(p)] for inner, p in unwrapped(call.model).named_parameters() if id(p) in names}
        placed = Placed(None, looked.path, own, looked.start, origins, (source_of(sys._getframe()), looked.source))
        if looked.outputs and not call.hooks:
            raise Unfit("inputs are too large, or calls too many, to be held")
        if not gradients:  # none reached the call
            return placed
        name = looked.path or "the model"
        if are_others() and takes_others(call.model):
            raise Unfit(f"{name} computes together with other processes")
        if not call.is_intact:
            raise Unfit(f"the inputs of {name} were changed in place since")
        if looked.world.has_moved:
            raise Unfit("an optimizer moved the weights within the backward pass")
        return replace(placed, inside=look_inside(call, looked.world, gradients))
