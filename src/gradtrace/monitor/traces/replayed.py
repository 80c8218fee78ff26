"""A call of the model once more, uncompiled, from the gradients that reached its outputs: the trace of its inside.

What was compiled cannot be looked into, and what looks at it makes it compile again. So the same call is made once
more beside the training, with the same inputs, weights, buffers and random numbers, and its backward pass begins with
the gradients that the training's own brought. Nothing of it reaches the training: weights are stood in for by leaves
over the same memory, buffers by copies, and whatever else the call changes is put back.
"""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.autograd.graph import GradientEdge

from gradtrace.measure.assembly import assemble
from gradtrace.measure.deferred import Deferred
from gradtrace.measure.description import describe, read_saved
from gradtrace.measure.forward import ForwardObserver
from gradtrace.measure.session import Forward, batch_size_of, eager, run_backward
from gradtrace.measure.trace import environment
from gradtrace.measure.untouched import paused_collection, untouched
from gradtrace.monitor.nonfinite.forward_calls import cut_off
from gradtrace.monitor.nonfinite.replay import alone, set_random_states, stand_ins, unwrapped
from gradtrace.monitor.traces.observer import StepObserver
from gradtrace.monitor.traces.silence import silence
from gradtrace.recurrence.in_step import Recurrences
from gradtrace.tape.dataflow import tensors_in
from gradtrace.tape.graph import release, walk
from gradtrace.tape.private import buffers_of, hooks_of, version_of
from gradtrace.tape.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from gradtrace.monitor.nonfinite.forward_calls import Call
    from gradtrace.monitor.nonfinite.replay import Buffers
    from gradtrace.records.time import Chain
    from gradtrace.records.trace import Trace
    from gradtrace.tape.graph import Edge


@dataclass(frozen=True, slots=True)
class World:
    """What a call may draw from and write to beside its inputs, as it was before."""

    buffers: Buffers
    python: Any
    numpy: Any
    weights: tuple[tuple[Tensor, int], ...]
    """Each with its version: a step within the backward pass would have moved it."""

    @classmethod
    def of(cls, model: nn.Module) -> World:
        """As it is now."""
        buffers = {
            (id(module), name): buffer.detach().clone()
            for module in model.modules()
            for name, buffer in buffers_of(module).items()
            if buffer is not None
        }
        weights = tuple((parameter, version_of(parameter)) for parameter in model.parameters())
        return cls(buffers, random.getstate(), np.random.get_state(), weights)

    @property
    def has_moved(self) -> bool:
        """Whether a weight is no longer what it was."""
        return any(version_of(weight) != version for weight, version in self.weights)


@dataclass(frozen=True, slots=True)
class Inside:
    """What a call looks like from inside, and where it is open: to the loss, and to what it was given."""

    trace: Trace
    outputs: dict[int, Edge]
    """By output tensor: the op that made it, and which of the op's outputs it is."""
    inputs: dict[int, int]
    """Leaf op -> the input tensor that it stands for."""
    chains: tuple[Chain, ...]
    """Its recurrences."""


def look_inside(call: Call, world: World, gradients: Mapping[int, Tensor]) -> Inside:
    """Call and backward pass once more, the latter from `gradients` by output tensor.

    Raises whatever the user's code raises, in a situation that it was not written for.
    """
    model = unwrapped(call.model)
    args, kwargs = cut_off(call.args), cut_off(call.kwargs)
    with contextlib.ExitStack() as stack:
        stack.enter_context(silence())
        stack.enter_context(alone())
        stack.enter_context(stand_ins(model, buffers=world.buffers))
        unkept = stack.enter_context(untouched(model, batch=(args, kwargs), hooks=_hooks(model)))
        stack.enter_context(eager())
        stack.enter_context(paused_collection())
        if call.autocast is not None:
            stack.enter_context(torch.autocast(*call.autocast))
        set_random_states(call.random_states)
        random.setstate(world.python)
        np.random.set_state(world.numpy)
        inside = _measured(model, call.function or model, (args, kwargs), gradients)
    coverage = inside.trace.coverage
    coverage = replace(coverage, notes=(*coverage.notes, *unkept))
    return replace(inside, trace=replace(inside.trace, coverage=coverage))


def _hooks(model: nn.Module) -> list[Any]:
    """The user's own on the calls of modules, which are called once more as well: what they change is put back."""
    return [hook for module in model.modules() for hook in hooks_of(module)]


def _measured(
    model: nn.Module, function: Callable[..., Any], given: tuple[Any, Any], gradients: Mapping[int, Tensor]
) -> Inside:
    deferred = Deferred()
    observer = ForwardObserver(deferred)
    recurrences = Recurrences(model)
    recorder = Recorder(model, StepObserver(observer, recurrences))
    with recorder:
        outputs = tensors_in(function(*given[0], **given[1]))
    wanted = {i: outputs[i] for i in gradients if i < len(outputs) and outputs[i].grad_fn is not None}
    if len(wanted) != len(gradients):
        raise RuntimeError("uncompiled, it gives other outputs")
    edges = [GradientEdge(tensor.grad_fn, tensor.output_nr) for tensor in wanted.values()]  # type: ignore[arg-type]
    cotangents = [gradients[i].to(device=tensor.device, dtype=tensor.dtype) for i, tensor in wanted.items()]
    graph = walk([edge.node for edge in edges])
    with contextlib.ExitStack() as last:
        last.callback(release, list(graph.nodes))
        last.callback(recurrences.close)
        recurrences.arm(graph.nodes)
        reached = _sum(list(wanted.values()))
        forward = Forward(model, reached, recorder, observer, deferred, batch_size_of(given), graph, {})
        read_saved(forward)
        tape = describe(forward, model)
        backward = run_backward(forward, graph, edges, cotangents)
        trace = assemble(model, forward, backward, tape, "loss", (), environment())
        index = {node: i for i, node in enumerate(graph.nodes)}
        numbers = {id(tensor): i for i, tensor in enumerate(tensors_in(given[0]) + tensors_in(given[1]))}
        inputs = {i: numbers[id(leaf)] for i, leaf in graph.leaves().items() if id(leaf) in numbers}
        places = {i: (index[edge.node], edge.output_nr) for i, edge in zip(wanted, edges, strict=True)}
        chains = recurrences.chains(graph.nodes, trace.ops)
        if recurrences.fault:
            notes = (*trace.coverage.notes, recurrences.fault)
            trace = replace(trace, coverage=replace(trace.coverage, notes=notes))
        del forward, backward, tape, index, edges, reached, outputs, wanted, graph  # before their nodes
    return Inside(trace, places, inputs, chains)


def _sum(outputs: list[Tensor]) -> Tensor:
    """One number that depends on all."""
    return torch.stack([output.float().sum().to(outputs[0].device) for output in outputs]).sum()
