"""What the watched modules were called with in the step at hand: all that it takes to run a call again.

Inputs are held by reference with their versions, the random state is copied, and of the output only the gradient that
reached it: holding on to outputs would hold on to their tape. Nothing is held beyond the step, but what `Delayed`
still waits for.
"""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradtrace.tape.dataflow import tensors_in
from gradtrace.tape.private import nbytes_of, node_sequence_nr, version_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from torch.utils.hooks import RemovableHandle

MOST_BYTES = 256 * 2**20
"""Of inputs: calls with more are not held on to for the sake of a replay, older calls make room for later ones."""

MOST_CALLS = 8
"""Of a step; the later ones."""


@dataclass(slots=True, eq=False)
class Call:
    """One forward call of a watched module."""

    label: str
    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    versions: tuple[int, ...]
    on_tape: tuple[bool, ...]
    """By input tensor: whether another model made it, or an op of the user's."""
    random_states: tuple[Tensor, ...]
    """Of the CPU, and of the GPU where the inputs are on one."""
    autocast: tuple[str, torch.dtype] | None
    """Device and format, where automatic mixed precision was on."""
    nbytes: int
    function: Callable[..., Any] | None = None
    """What was called in place of `model`, of which it calls parts: a compiled function, or a module of other names."""
    has_own_weights: bool = True
    """Whether it was no call with other weights in their place, as those of an inner loop (`functional_call`)."""
    last_number: int = -1
    """The largest sequence number of an output's op: later ones lie between the model and the loss."""
    gradients: dict[int, Tensor] = field(default_factory=dict)
    """By output tensor: the gradient that reached it, where one did."""
    hooks: list[RemovableHandle] = field(default_factory=list)
    """On the nodes of its outputs: those on the tensors would be saved with them."""

    def leave(self) -> None:
        """No gradient is waited for any more; those that came stay for whoever holds the call."""
        while self.hooks:
            self.hooks.pop().remove()

    @property
    def inputs(self) -> list[Tensor]:
        """All tensors it was called with."""
        return tensors_in(self.args) + tensors_in(self.kwargs)

    @property
    def batch(self) -> dict[int, Tensor]:
        """Of its inputs those that came without a tape, by their place."""
        return {i: t for i, (t, made) in enumerate(zip(self.inputs, self.on_tape, strict=True)) if not made}

    @property
    def is_intact(self) -> bool:
        """Whether its inputs are still what they were."""
        return tuple(map(version_of, self.inputs)) == self.versions


class Calls:
    """Those of the step at hand, outermost ones; `names` has names for what is called, where that has none itself."""

    def __init__(self, names: nn.Module | None = None) -> None:
        self._names = names
        self.held: deque[Call] = deque()
        self.num_calls = 0
        """Since the beginning."""
        self.num_let_go = 0
        """Of the step at hand, those that made room for later ones."""
        self.called: set[str] = set()
        """Labels of all modules that were called."""

    def forget(self) -> None:
        """The weights have changed: no replay from before."""
        self.num_let_go = 0
        while self.held:
            self.held.popleft().leave()

    def went_well(self) -> None:
        """A backward pass ended with finite gradients: what it left behind is of no use."""
        for call in self.held:
            call.gradients.clear()

    @property
    def last_number(self) -> int:
        """The largest sequence number inside of the watched modules; -1 where none was called."""
        return max((call.last_number for call in self.held), default=-1)

    def count(self, label: str) -> None:
        """A watched module is called."""
        self.num_calls += 1
        self.called.add(label)

    def entered(self, label: str, model: nn.Module, args: Any, kwargs: Any, function: Any = None) -> Call | None:
        """A watched module is called, or a compiled function; None: the call is not held."""
        if not torch.is_grad_enabled():
            return None
        tensors = tensors_in(args) + (tensors_in(kwargs) if kwargs else [])
        nbytes, versions, on_tape, device = 0, [], [], "cpu"
        for tensor in tensors:
            on_tape.append(tensor.grad_fn is not None)
            nbytes += nbytes_of(tensor)
            versions.append(version_of(tensor))
            device = tensor.device.type if device == "cpu" else device
        if nbytes > MOST_BYTES:
            return None
        while len(self.held) == MOST_CALLS or (
            self.held and nbytes + sum(call.nbytes for call in self.held) > MOST_BYTES
        ):
            oldest = next((call for call in self.held if call.function is not None), None)
            if oldest is None and function is not None:  # the models' own calls come first
                return None
            oldest = oldest or self.held[0]
            self.held.remove(oldest)
            oldest.leave()
            self.num_let_go += 1
        states = [torch.default_generator.get_state()]
        if device == "cuda":
            states.append(torch.cuda.get_rng_state())
        autocast = (device, torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None
        if any(on_tape):  # of another model, which holding on to its output would hold on to
            args, kwargs = cut_off(args), cut_off(kwargs)
        if self._names is not None:
            label, model, function = "", self._names, function or model
        call = Call(
            label, model, args, kwargs, tuple(versions), tuple(on_tape), tuple(states), autocast, nbytes, function
        )
        call.has_own_weights = next(model.parameters(), None) is None or next(model.parameters()).is_leaf
        self.held.append(call)
        return call

    def left(self, call: Call, output: Any) -> None:
        """It returned `output`, or raised (None)."""
        is_idle = call.function is not None and all(tensor.grad_fn is None for tensor in tensors_in(output))
        if output is None or is_idle:
            with contextlib.suppress(ValueError):  # it made room for others
                self.held.remove(call)
            return
        for index, tensor in enumerate(tensors_in(output)):
            node = tensor.grad_fn
            if node is None:  # a leaf would keep the hook for ever
                continue
            call.last_number = max(call.last_number, node_sequence_nr(node))
            if tensor.is_floating_point() and nbytes_of(tensor) <= MOST_BYTES:
                keep = functools.partial(_keep, call.gradients, index, tensor.output_nr)
                call.hooks.append(node.register_prehook(keep))


def _keep(gradients: dict[int, Tensor], index: int, place: int, arrived: tuple[Tensor | None, ...]) -> None:
    gradient = arrived[place]
    if gradient is not None:  # with a tape of its own it would hold on to the output that holds on to it
        gradients[index] = gradient.detach() if gradient.requires_grad else gradient


def cut_off(value: Any) -> Any:
    """The same numbers without the tape that they came with."""
    if isinstance(value, Tensor):
        return value.detach().requires_grad_(value.requires_grad)
    if isinstance(value, dict):
        return type(value)({key: cut_off(item) for key, item in value.items()}) if type(value) is dict else value
    if type(value) in (tuple, list):
        return type(value)(cut_off(item) for item in value)
    return value
