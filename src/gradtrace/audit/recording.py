"""Which torch functions make the output from the input, and what do they pass on? The network as a graph.

One forward pass under the tape's recorder. Every float tensor that carries gradient becomes a value with its place on
the tape (so that its gradient can be asked for later), every torch function a step from values to values. A function
without a rule is differentiated on the spot, by itself, with a random cotangent: its growth is known by measurement.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from gradtrace.audit.arguments import Arguments
from gradtrace.audit.cuts import cuts
from gradtrace.audit.probing import local_growth, local_profile, swap
from gradtrace.audit.signals import Signal, observed
from gradtrace.errors import InputError
from gradtrace.tape.dataflow import tensors_in
from gradtrace.tape.recorder import Call, Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from torch import device, dtype, nn


@dataclass(slots=True)
class Value:
    """A tensor of the forward pass."""

    index: int
    shape: tuple[int, ...]
    dtype: dtype
    device: device
    edge: GradientEdge
    producer: int | None
    """Index of the step that made it; None: the input, or something that the recorder does not see."""
    measured: Signal
    consumers: list[tuple[int, int]] = field(default_factory=list)
    """(step, which of its inputs)."""
    axis: int | None = None
    """Of what a recurrence made: the axis of its time steps (of its last states: of its layers)."""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(slots=True)
class Step:
    """One torch function call."""

    index: int
    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    module: str
    module_type: str
    source: str
    inputs: list[int] = field(default_factory=list)
    input_tensors: list[Tensor] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    local: list[float] | None = None
    """Measured growth to each input, for a function without a rule."""
    local_spread: float = 0.0
    """ln of how much larger it is for a gradient that is the same at all places along an axis (attention's tokens)."""
    call: Callable[..., Any] | None = None
    """The function itself, for one with a rule that turns out not to hold here."""
    profiles: dict[int, list[list[float]]] = field(default_factory=dict)
    """Per input with an `axis`: covariance of the gradient's places along it [places, lags], of mean energy 1."""

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument, however it was passed."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)


@dataclass(slots=True)
class Recording:
    """Values and steps in the order of the forward pass."""

    values: list[Value]
    steps: list[Step]
    outputs: list[int]
    batch_size: int
    hidden: list[str]
    """Where a value came from something that the recorder does not see."""
    on_meta: bool
    cuts: list[str] = field(default_factory=list)
    """Sentences about parameters that the output is made from, yet without their gradient."""


def function_name(name: str) -> str:
    """``add_`` and ``__add__`` are ``add``.

    >>> [function_name(name) for name in ("add_", "__radd__", "relu", "rsub")]
    ['add', 'radd', 'relu', 'rsub']
    """
    return name.strip("_")


SEQUENCES = {"lstm", "gru", "rnn_tanh", "rnn_relu"}
_KEEP_TIME = SEQUENCES | {"linear", "dropout", "layer_norm", "rms_norm", "relu", "tanh", "gelu", "add"}
"""Functions that treat all time steps alike: gradient is found where it came from."""


class Scribe:
    """The recorder's observer: notes every call that makes values."""

    def __init__(self, model: nn.Module, known: Container[str], batch_size: int) -> None:
        self._parameters = {id(parameter) for parameter in model.parameters()}
        self._data: dict[int, weakref.ref[Tensor]] = {}  # what the input was made into, with or without gradient
        self._known = known
        self._batch_size = batch_size
        self._kept: dict[int, tuple[Tensor, int]] = {}
        self._derived: dict[int, Tensor] = {}  # made from parameters alone: a parametrisation, looked through
        self.values: list[Value] = []
        self.steps: list[Step] = []
        self.hidden: list[str] = []

    def value(self, tensor: Tensor, producer: int | None) -> int:
        """Number a tensor that was just made (a tensor written in place is a new value)."""
        index = len(self.values)
        signal = observed(tensor, self._batch_size)
        edge = get_gradient_edge(tensor)
        self.values.append(Value(index, tuple(tensor.shape), tensor.dtype, tensor.device, edge, producer, signal))
        self._kept[id(tensor)] = (tensor, index)
        return index

    def note_data(self, tensors: list[Tensor]) -> None:
        """These depend on the model's input."""
        self._data |= {id(tensor): weakref.ref(tensor) for tensor in tensors}

    def _is_data(self, tensor: Tensor) -> bool:
        known = self._data.get(id(tensor))
        return known is not None and known() is tensor

    def find(self, tensor: Tensor) -> int | None:
        """Its number, or None for one that is no value."""
        known = self._kept.get(id(tensor))
        return known[1] if known is not None and known[0] is tensor else None

    def _is_old(self, tensor: Tensor) -> bool:
        """Known already, and not written on since (an in-place function makes a new value of an old tensor)."""
        index = self.find(tensor)
        return index is not None and self.values[index].edge == get_gradient_edge(tensor)

    def _is_value(self, tensor: Tensor) -> bool:
        known = id(tensor) in self._parameters or self._derived.get(id(tensor)) is tensor
        return tensor.requires_grad and tensor.is_floating_point() and not known

    def before(self, call: Call, function: Callable[..., Any], args: Any, kwargs: Any) -> Step:
        """Note the operands, before an in-place function overwrites them."""
        site, name = call.site, function_name(call.name)
        path = site.module or ""
        step = Step(-1, name, args, dict(kwargs), path, site.module_type, site.source, call=function)
        for tensor in [*tensors_in(args), *tensors_in(kwargs)]:
            if self._is_value(tensor):
                index = self.find(tensor)
                if index is None:
                    self.hidden.append(f"{name} in {path or 'the model'} {site.source}".strip())
                    index = self.value(tensor, None)
                if index not in step.inputs:
                    step.inputs.append(index)
                    step.input_tensors.append(tensor)
        if step.inputs and name not in self._known:
            step.local, step.local_spread = local_growth(function, args, kwargs, step.input_tensors)
        if name not in _KEEP_TIME:
            for slot, index in enumerate(step.inputs):
                axis, tensor = self.values[index].axis, step.input_tensors[slot]
                if axis is not None and (found := local_profile(function, args, kwargs, tensor, axis)) is not None:
                    step.profiles[slot] = found
        return step

    def after(self, call: Call, seen: Step, operands: list[Tensor], result: Any) -> None:
        """Note the results as values."""
        from_data = any(self._is_data(tensor) for tensor in operands)
        if from_data:
            self.note_data(tensors_in(result))
        made = [tensor for tensor in tensors_in(result) if self._is_value(tensor)]
        if call.name in ("__setitem__", "copy_") and operands:
            made = [operands[0]] if self._is_value(operands[0]) else []
        made = [tensor for tensor in made if not self._is_old(tensor)]
        if not made:
            return
        if not seen.inputs and not from_data:
            self._derived |= {id(tensor): tensor for tensor in made}
            return
        seen.index = len(self.steps)
        seen.outputs = [self.value(tensor, seen.index) for tensor in made]
        for slot, index in enumerate(seen.inputs):
            self.values[index].consumers.append((seen.index, slot))
        for place, index in enumerate(seen.outputs):
            self.values[index].axis = self._axis(seen, place, self.values[index].shape)
        self.steps.append(seen)

    def _axis(self, step: Step, place: int, shape: tuple[int, ...]) -> int | None:
        """The axis of time in an output: of a recurrence, of a stack, or kept from an input of the same shape."""
        if step.function in SEQUENCES:
            return 1 if place == 0 and step.args[-1] is True else 0
        if step.function == "stack":
            return int(step.argument(1, "dim", 0)) % len(shape)
        kept = (self.values[i] for i in step.inputs if self.values[i].shape[:-1] == shape[:-1])
        return next((value.axis for value in kept if value.axis is not None and value.axis < len(shape) - 1), None)


def record(model: nn.Module, example_input: Any, known: Container[str]) -> Recording:
    """Run the model once on `example_input` (a tuple is its positional, a dict its keyword arguments)."""
    arguments = Arguments.of(example_input)
    tensors = tensors_in(arguments)
    batch_size = next((tensor.shape[0] for tensor in tensors if tensor.dim()), 1)
    scribe = Scribe(model, known, batch_size)
    copies: dict[int, Tensor] = {}
    for tensor in tensors:
        if tensor.is_floating_point():
            copies[id(tensor)] = tensor.detach().clone().requires_grad_().clone()
            scribe.value(copies[id(tensor)], None)
    scribe.note_data([copies.get(id(tensor), tensor) for tensor in tensors])
    given = Arguments(swap(arguments.args, copies), swap(arguments.kwargs, copies))
    recorder = Recorder(model, scribe)
    with recorder:
        result = given.call(model)
    outputs = [index for tensor in tensors_in(result) if (index := scribe.find(tensor)) is not None]
    if not outputs:
        faults = f" ({recorder.faults[0]})" if recorder.faults else ""
        raise InputError(f"the model's output carries no gradient: detached, integer, or made under no_grad{faults}")
    hidden = [*dict.fromkeys(scribe.hidden), *dict.fromkeys(recorder.faults)]
    made = tensors_in(result)
    on_meta = any(tensor.is_meta for tensor in tensors)
    return Recording(scribe.values, scribe.steps, outputs, batch_size, hidden, on_meta, cuts(model, recorder, made))
