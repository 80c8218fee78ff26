"""The steps of one measurement: forward pass under the recorder, a walk over the tape, backward pass under the tap."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from gradtrace.errors import InputError
from gradtrace.measure.deferred import Deferred
from gradtrace.measure.forward import ForwardObserver
from gradtrace.measure.gradients import GradientTap
from gradtrace.measure.reduction import reduce
from gradtrace.measure.slips import hint_of_failure, hint_of_return
from gradtrace.tape.dataflow import tensors_in
from gradtrace.tape.graph import Graph, walk
from gradtrace.tape.kinds import LEAF, OPAQUE, base_name
from gradtrace.tape.recorder import Recorder
from gradtrace.tape.source import source_of
from gradtrace.tape.unroll import unrolled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn
    from torch.autograd.graph import Node

    from gradtrace.measure.reduction import Handle
    from gradtrace.measure.seen import Seen
    from gradtrace.records.trace import Site
    from gradtrace.tape.recorder import Call


@dataclass(slots=True)
class Forward:
    """A forward pass that was run under the recorder."""

    model: nn.Module
    loss: Tensor
    recorder: Recorder
    observer: ForwardObserver
    deferred: Deferred
    batch_size: int | None
    graph: Graph
    saved: dict[Node, Seen]
    """What was read from the tape's saved values, by node."""
    places: list[tuple[Site, Call | None]] = field(default_factory=list)
    """Of the nodes, once they were looked for: where the user recorded each, and by which function."""


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """Compiled parts run uncompiled: hooks do not fire inside a compiled graph."""
    previous = None
    if "torch._dynamo" in sys.modules:  # its import takes a second, and before it nothing is compiled
        with contextlib.suppress(Exception):
            previous = torch.compiler.set_stance("force_eager")
    with (
        previous if previous is not None else contextlib.nullcontext(),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        yield


def run_forward(
    model: nn.Module, loss_fn: Callable[..., Any], batch: Any, *, values: bool = False, unroll: bool = False
) -> Forward:
    """Compute the loss under the recorder; raises `InputError` for a loss that cannot be traced."""
    deferred = Deferred()
    observer = ForwardObserver(deferred, values=values)
    recorder = Recorder(model, observer)
    try:
        with recorder, unrolled(model) if unroll else contextlib.nullcontext():  # the recorder sees what a step calls
            loss = loss_fn(model, batch)
    except InputError:
        raise
    except Exception as error:
        raise InputError(explain_failure(error, model, batch) + hint_of_failure(loss_fn, batch)) from error
    check_loss(loss, model)
    root = loss.grad_fn if loss.grad_fn is not None else loss.view_as(loss).grad_fn
    assert root is not None
    return Forward(model, loss, recorder, observer, deferred, batch_size_of(batch), walk([root]), {})


def explain_failure(error: Exception, model: nn.Module, batch: Any) -> str:
    """What `loss_fn` raised, and where in the user's code, in one sentence."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    where = next((text for frame in reversed(frames) if (text := source_of(frame.tb_frame))), "")
    places = {str(p.device) for p in model.parameters()}, {str(t.device) for t in tensors_in(batch)}
    hint = ""
    if places[1] and places[0] != places[1]:
        hint = f"; the model is on {', '.join(sorted(places[0]))} and the batch on {', '.join(sorted(places[1]))}"
    first = str(error).strip().split("\n")[0]
    return f"loss_fn(model, batch) raised {type(error).__name__}: {first}" + (f" (at {where})" if where else "") + hint


def check_loss(loss: Any, model: nn.Module) -> None:
    """One sentence for each way in which a loss cannot be traced."""
    if not isinstance(loss, torch.Tensor):
        told = f"loss_fn must return a scalar tensor, but it returned {type(loss).__name__}"
        raise InputError(told + hint_of_return(loss))
    if any(parameter.grad is not None for parameter in model.parameters()):
        raise InputError("loss_fn called backward() itself; return the loss and leave the backward pass to gradtrace")
    if loss.numel() != 1:
        raise InputError(
            f"loss_fn must return a scalar, but it returned a tensor of shape {list(loss.shape)}; reduce it, "
            "for example with .mean()"
        )
    if loss.is_complex():
        raise InputError("loss_fn returned a complex number; a loss must be real, for example its .abs()")
    if not loss.requires_grad:
        raise InputError(
            "the loss has no gradient: it was computed under no_grad, detached, converted, or from parameters that do "
            "not require one"
        )


def batch_size_of(batch: Any) -> int | None:
    """Length of the first axis of the first tensor in `batch` that has one."""
    return next((t.shape[0] for t in tensors_in(batch) if t.dim() and not t.is_nested), None)


@dataclass(slots=True)
class Backward:
    """A backward pass that was run under the tap."""

    graph: Graph
    names: list[str]
    tap: GradientTap
    hidden: dict[str, Handle]
    """Gradients of parameters that are no leaf of this tape: those inside of a reentrant checkpoint."""


def run_backward(forward: Forward, graph: Graph, roots: list[Any], cotangents: list[Tensor] | None) -> Backward:
    """Run the backward pass from `roots` with a hook on every node; ``.grad`` of no tensor is changed."""
    names = [node.name() for node in graph.nodes]
    leaves = graph.leaves()
    hidden: dict[str, Handle] = {}
    with GradientTap(graph, forward.deferred, forward.batch_size) as tap:
        try:
            if any(OPAQUE.get(base_name(name)) == "reentrant checkpoint" for name in names):
                gradients = _accumulated(roots, cotangents, leaves)
                hidden = _hidden(forward, leaves)
            else:
                found = torch.autograd.grad(roots, list(leaves.values()), cotangents, allow_unused=True)
                gradients = dict(zip(leaves, found, strict=True))
        except RuntimeError as error:
            if "second time" in str(error):
                raise InputError(
                    "the graph of the loss was already freed by an earlier backward(); compute the loss anew in loss_fn"
                ) from error
            raise InputError(
                f"the backward pass raised {type(error).__name__}: {str(error).splitlines()[0]}"
            ) from error
        for index, gradient in gradients.items():
            if gradient is not None and names[index] == LEAF:
                tap.receive_leaf(index, gradient)
    return Backward(graph, names, tap, hidden)


def _accumulated(roots: list[Any], cotangents: list[Tensor] | None, leaves: dict[int, Tensor]) -> dict[int, Any]:
    """A reentrant checkpoint forbids autograd.grad: accumulate into ``.grad``, read it there and put it back."""
    before = {index: leaf.grad for index, leaf in leaves.items()}
    try:
        for leaf in leaves.values():
            leaf.grad = None
        torch.autograd.backward(roots, cotangents)
        return {index: leaf.grad for index, leaf in leaves.items()}
    finally:
        for index, leaf in leaves.items():
            leaf.grad = before[index]


def _hidden(forward: Forward, leaves: dict[int, Tensor]) -> dict[str, Handle]:
    known = {id(leaf) for leaf in leaves.values()}
    return {
        name: reduce(parameter.grad, forward.deferred)
        for name, parameter in forward.model.named_parameters()
        if parameter.grad is not None and id(parameter) not in known
    }
