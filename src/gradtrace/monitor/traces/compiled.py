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
from dataclasses import dataclass, field, replace
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
from gradtrace.monitor.hooks.compiled_code import before_compiled_code
from gradtrace.monitor.nonfinite.replay import unwrapped
from gradtrace.monitor.traces.parting import parting
from gradtrace.monitor.traces.replayed import World, look_inside
from gradtrace.monitor.traces.splice import Placed, Splice
from gradtrace.tape.dataflow import tensors_in
from gradtrace.tape.graph import Graph, release, walk
from gradtrace.tape.kinds import LEAF
from gradtrace.tape.private import node_sequence_nr, sequence_nr, sink_mode
from gradtrace.tape.recorder import Recorder, Visit, source_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.autograd.graph import Node

    from gradtrace.monitor.hooks.patches import Interposition
    from gradtrace.monitor.nonfinite.forward_calls import Call
    from gradtrace.records.trace import Trace
    from gradtrace.tape.graph import Edge

UNCOMPILED = "traced through the uncompiled code, which was called once more beside the training"


class Unfit(Exception):  # noqa: N818  # not an error of anybody's
    """Why the step at hand cannot be traced, in half a sentence."""


@dataclass(slots=True)
class _Looked:
    """One call of a watched module in this step."""

    call: Call
    world: World
    path: str
    made: list[tuple[Node, int] | None]
    """By input tensor: the op that made it, and which of that op's outputs it is."""
    start: int
    """The number of the first op that was recorded in it."""
    source: str
    """``file.py:12`` of the line that made it: what lies in no file of the user's is told by that."""
    end: int = -1
    outputs: dict[tuple[Node, int], int] = field(default_factory=dict)
    """Op and which of its outputs -> output tensor, of those that the call itself made."""
    is_random: bool = False
    """Whether random numbers were drawn in it."""


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
        self._calls: list[_Looked] = []
        self._under_way: tuple[Forward, GradientTap, dict[Edge, tuple[int, int]], list[dict[int, Any]]] | None = None
        self._is_recording = False
        self._thread = 0
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

    def entered(self, call: Call | None, args: Any, kwargs: Any) -> None:
        """A watched module is called; `call` is what is held of it."""
        begun = time.perf_counter()
        self._depth += 1
        if self._depth == 1 and torch.is_grad_enabled() and self._under_way is None and not self.why_not:
            self.end_forward()
            if call is None:
                self.why_not = "the model's inputs are too large to be held"
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
        self._calls.append(_Looked(call, World.of(model), path, made, sequence_nr(), source_of(sys._getframe())))

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
        self._thread = threading.get_ident()
        self._guard = before_compiled_code(self._step_aside)
        if self._guard is not None:
            self._recorder.__enter__()
            sink_mode(self._recorder)

    def _step_aside(self) -> None:
        if threading.get_ident() == self._thread:
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
        if loss.grad_fn is None or self.why_not or not self._calls:
            return
        try:
            self._hook(loss)
        except Unfit as why:
            self.why_not = str(why)
        self.seconds += time.perf_counter() - begun

    def _hook(self, loss: Tensor) -> None:
        assert loss.grad_fn is not None
        whole = walk([loss.grad_fn])
        graph, entries = self._without_insides(whole)
        for looked in self._calls:
            kind = type(unwrapped(looked.call.model)).__name__
            self._recorder.visits.append(Visit(looked.path, kind, 0, looked.start, looked.end))
        places = {node: index for index, node in enumerate(graph.nodes)}
        origins = [self._origins(looked, places) for looked in self._calls]
        forward = Forward(
            self._whole, loss, self._recorder, self._observer, self._deferred, self._batch_size, graph, {}
        )
        with torch.no_grad(), paused_collection():
            read_saved(forward)
        tap = GradientTap(graph, self._deferred, self._batch_size)
        tap.__enter__()
        self._under_way = forward, tap, entries, origins

    def _without_insides(self, whole: Graph) -> tuple[Graph, dict[Edge, tuple[int, int]]]:
        """The ops outside of calls, those at whose outputs calls are entered, and the leaves; and these outputs."""
        owners = [self._owner(node) for node in whole.nodes]
        entered: dict[Edge, tuple[int, int]] = {}
        for index, targets in enumerate(whole.targets):
            for target in targets:
                if target is None or owners[target[0]] is None or owners[target[0]] == owners[index]:
                    continue
                number = owners[target[0]]
                assert number is not None
                output = self._calls[number].outputs.get((whole.nodes[target[0]], target[1]))
                if output is None:
                    name = self._calls[number].path or "the model"
                    raise Unfit(f"a value from inside of {name} reaches the loss, and not by its output")
                entered[target] = number, output
        if owners[0] is not None:  # the loss is what a call returned
            entered[0, 0] = owners[0], 0
        heads = {index for index, _ in entered}
        kept = [i for i, owner in enumerate(owners) if owner is None or i in heads]
        places = {index: place for place, index in enumerate(kept)}
        targets = tuple(
            tuple(
                (places[target[0]], target[1]) if target is not None and owners[i] is None else None
                for target in whole.targets[i]
            )
            for i in kept
        )
        arrivals: dict[Edge, list[Edge]] = {}
        for source, pairs in enumerate(targets):
            for slot, target in enumerate(pairs):
                if target is not None:
                    arrivals.setdefault(target, []).append((source, slot))
        graph = Graph(tuple(whole.nodes[i] for i in kept), targets, {t: tuple(e) for t, e in arrivals.items()})
        return graph, {(places[index], port): found for (index, port), found in entered.items()}

    def _owner(self, node: Node) -> int | None:
        if node.name() == LEAF:
            return None
        number = node_sequence_nr(node)
        return next((i for i, looked in enumerate(self._calls) if looked.start <= number < looked.end), None)

    def _origins(self, looked: _Looked, places: dict[Node, int]) -> dict[int, Any]:
        """Where the gradient of each input goes on to: to an op in front, or to an earlier call's output."""
        found: dict[int, Any] = {}
        for i, made in enumerate(looked.made):
            if made is None:
                continue
            owner = self._owner(made[0])
            if owner is not None:
                output = self._calls[owner].outputs.get(made)
                if output is not None:
                    found[i] = (-1, owner, output)
            elif made[0] in places:
                found[i] = (places[made[0]], made[1])
        return found

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
            notes = (UNCOMPILED, *([f"the loss was scaled by {float(scale):g}"] if scale is not None else []))
            front = assemble(self._whole, forward, backward, tape, "loss", notes, environment())
            forward.graph = Graph((), (), {})
            del forward, tap, backward, tape
            release(nodes)
        trace = None
        try:
            trace = self._joined(front, entries, origins)
        except Unfit as why:
            self.why_not = str(why)
        except Exception as error:  # the user's forward, in a situation that it was not written for
            first = str(error).strip().split("\n")[0]
            self.why_not = f"called once more without its compiler, it raised {type(error).__name__}: {first}"
        self.seconds += time.perf_counter() - begun
        return trace

    def _joined(self, front: Trace, entries: dict[Edge, tuple[int, int]], origins: list[dict[int, Any]]) -> Trace:
        names = {id(parameter): name for name, parameter in self._whole.named_parameters()}
        placed = [self._placed(looked, names, origin) for looked, origin in zip(self._calls, origins, strict=True)]
        reached = [number for number, one in enumerate(placed) if one is not None]
        renumbered = {number: place for place, number in enumerate(reached)}
        calls = [
            replace(
                one, origins={i: (-1, renumbered[o[1]], o[2]) if len(o) == 3 else o for i, o in one.origins.items()}
            )
            for one in placed
            if one is not None
        ]
        splice = Splice(front, {edge: (renumbered[n], o) for edge, (n, o) in entries.items()}, calls)
        trace = splice.joined()
        found = parting(front, trace, splice.alone, is_random=any(looked.is_random for looked in self._calls))
        if found is None:
            return trace
        if found.is_beyond_rounding:
            self.remark = f"compiled and uncompiled code part: {found}"
        return replace(trace, coverage=replace(trace.coverage, notes=(*trace.coverage.notes, str(found))))

    def _placed(self, looked: _Looked, names: dict[int, str], origins: dict[int, Any]) -> Placed | None:
        """None: no gradient reached the call."""
        call = looked.call
        gradients = {i: call.gradients[i] for i in looked.outputs.values() if i in call.gradients}
        if not gradients:
            return None
        name = looked.path or "the model"
        if not call.is_intact:
            raise Unfit(f"the inputs of {name} were changed in place since")
        if looked.world.has_moved:
            raise Unfit("an optimizer moved the weights within the backward pass")
        model = unwrapped(call.model)
        own = {inner: names[id(p)] for inner, p in model.named_parameters() if id(p) in names}
        inside = look_inside(call, looked.world, gradients)
        return Placed(inside, looked.path, own, looked.start, origins, (source_of(sys._getframe()), looked.source))
