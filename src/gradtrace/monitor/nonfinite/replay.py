"""A call of the model once more, under the microscope, without a trace of it in the user's training.

The weights are stood in for by leaves of their own over the same memory, and the buffers by copies: hooks on the
user's parameters (an all-reduce, an optimizer in the backward pass) do not fire, and no version changes that a tape of
the user's relies on. Inputs are cut off the tape they came with.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gradtrace.measure.trace import trace
from gradtrace.monitor.nonfinite.forward_calls import cut_off
from gradtrace.monitor.watched import NamesOthers
from gradtrace.tape.dataflow import tensors_in
from gradtrace.tape.private import buffers_of, calls_to_others_raise, original_of, parameters_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gradtrace.monitor.nonfinite.forward_calls import Call
    from gradtrace.records.trace import Trace

NONE: Mapping[int, Tensor] = MappingProxyType({})

Buffers = Mapping[tuple[int, str], Tensor]
"""By the identity of the module and the name there."""

NO_BUFFERS: Buffers = MappingProxyType({})


def replay(call: Call, *, seeds: bool, weights: Mapping[int, Tensor] = NONE) -> tuple[Trace, bool]:
    """The call's trace, with every value looked at: from the gradient that reached its output, or from ones.

    Also whether its output holds a NaN or +Inf (-Inf is how logits are masked). `weights`, by the parameter's identity,
    are what they were where an optimizer has moved them since.
    """
    bad: list[bool] = []
    model = unwrapped(call.model)

    def total(model: nn.Module, batch: tuple[Any, Any]) -> Tensor:
        set_random_states(call.random_states)
        outputs = tensors_in((call.function or model)(*batch[0], **batch[1]))
        bad.extend(bool((torch.isnan(t) | (t == math.inf)).any()) for t in outputs if t.is_floating_point())
        wanted = [i for i, t in enumerate(outputs) if t.requires_grad and t.is_floating_point()]
        if seeds:
            # of value zero, whatever the sizes, and with the gradient that arrived
            pairs = [(outputs[i], call.gradients[i].detach()) for i in wanted if i in call.gradients]
            parts = [((output - output.detach()) * gradient).float().sum() for output, gradient in pairs]
        else:
            parts = [outputs[i].float().sum() for i in wanted]
        return torch.stack(parts).sum()

    with stand_ins(model, weights), _moved_back(model), contextlib.ExitStack() as stack:
        if call.autocast is not None:
            stack.enter_context(torch.autocast(*call.autocast))
        return trace(model, total, (cut_off(call.args), cut_off(call.kwargs)), values=True), any(bad)


def takes_others(model: nn.Module) -> bool:
    """Whether its forward pass is one of several processes' together, by what it consists of."""
    modules = list(unwrapped(model).modules())
    together = [m for m in modules if isinstance(m, nn.SyncBatchNorm) or type(m).__module__.startswith(_TOGETHER)]
    return bool(together) or any(hasattr(parameter, "to_local") for parameter in model.parameters())


_TOGETHER = ("torch.distributed.", "torch.nn.parallel.distributed")


def are_others() -> bool:
    """Whether this is one process of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def alone() -> contextlib.AbstractContextManager[Any]:
    """A context in which the other processes, if there are any, are not waited for: that raises."""
    return calls_to_others_raise() if are_others() else contextlib.nullcontext()


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of what compiles it and of what spreads it over processes, whichever way round."""
    original = original_of(model)
    if original is not None:
        return unwrapped(original)
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)  # its own forward would wait for the other processes
    return model


@contextlib.contextmanager
def stand_ins(model: nn.Module, weights: Mapping[int, Tensor] = NONE, buffers: Buffers = NO_BUFFERS) -> Iterator[None]:
    """Other parameters over the same numbers (or over `weights`), and copies of the buffers, until leaving.

    `buffers`, by the module's identity and the name there, are what those were where they have changed since.
    """
    before: list[tuple[nn.Module, str, Any]] = []
    others: dict[int, Any] = {}
    for module in model.modules():
        before += [(module, name, p) for name, p in parameters_of(module).items() if p is not None]
        for name, buffer in buffers_of(module).items():
            if buffer is not None and not isinstance(buffer, nn.Parameter):
                before.append((module, name, buffer))
                others.setdefault(id(buffer), buffers.get((id(module), name), buffer).detach().clone())
    for _, _, tensor in before:
        if id(tensor) not in others:
            others[id(tensor)] = nn.Parameter(weights.get(id(tensor), tensor).detach(), tensor.requires_grad)
    try:
        for module, name, tensor in before:
            setattr(module, name, others[id(tensor)])  # not past __setattr__: nn.RNN keeps a list of its own
        yield
    finally:
        for module, name, tensor in before:
            setattr(module, name, tensor)


@contextlib.contextmanager
def _moved_back(model: nn.Module) -> Iterator[None]:
    """No stand-ins reach what is no buffer to torch: it is as it was on leaving."""
    before = [
        (tensor, tensor.detach().clone()) for tensor in (model.moving() if isinstance(model, NamesOthers) else ())
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, was in before:
                tensor.copy_(was)


def set_random_states(states: tuple[Tensor, ...]) -> None:
    """Of the CPU, and of the GPU where there are two."""
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1])
