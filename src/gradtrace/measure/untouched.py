"""The model goes back as it came: gradients, buffers, attributes, mode, and every generator of random numbers.

Of attributes also what is in a list or a dict (a log, a cache), one level deep, and the state of generators of its own.
"""

from __future__ import annotations

import gc
import operator
import random
from collections import Counter, OrderedDict, defaultdict, deque
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gradtrace.tape.private import buffers_of, put_buffers_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

_OWN = {"_parameters", "_buffers", "_modules"}


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Everything that a forward and backward pass may change in `model` is put back on leaving, also after an error.

    Inside, every parameter's ``.grad`` is None, so that what a backward pass leaves there can be told apart.
    """
    parameters = list(model.parameters())
    gradients = [parameter.grad for parameter in parameters]
    modules = list(model.modules())
    buffers = [(module, buffers_of(module)) for module in modules]
    contents = {id(buffer): (buffer, buffer.detach().clone()) for buffer in model.buffers() if not buffer.is_meta}
    attributes = [(module, {k: v for k, v in vars(module).items() if k not in _OWN}) for module in modules]
    states = [_putter_back(value) for _, before in attributes for value in before.values()]
    with fixed_random_state():
        try:
            for parameter in parameters:
                parameter.grad = None
            yield
        finally:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            for module, before in buffers:
                put_buffers_back(module, before)
            with torch.no_grad():
                for buffer, content in contents.values():
                    if not _same(buffer, content):
                        buffer.copy_(content)
            for module, before in attributes:
                _restore(module, before)
            for put_back in filter(None, states):
                put_back()


def _same(buffer: Tensor, content: Tensor) -> bool:
    return buffer.device.type == "cpu" and torch.equal(buffer, content)


def _restore(module: nn.Module, before: dict[str, Any]) -> None:
    now = vars(module)
    for name in [name for name in now if name not in before and name not in _OWN]:
        del now[name]
    for name, value in before.items():
        if now.get(name) is not value:
            now[name] = value


def _putter_back(value: Any) -> Callable[[], object] | None:
    """What gives `value` back its state of now; None where it has none that we know of."""
    if type(value) in _CONTAINERS:
        return partial(_refill, value, list(value.items() if isinstance(value, dict) else value))
    if isinstance(value, torch.Generator):
        return partial(value.set_state, value.get_state())
    if isinstance(value, np.random.Generator):
        return partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return partial(value.set_state, value.get_state())
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return partial(value.setstate, value.getstate())
    return None


_CONTAINERS = (list, deque, set, dict, OrderedDict, defaultdict, Counter)


def _refill(container: Any, before: list[Any]) -> None:
    now = list(container.items() if isinstance(container, dict) else container)
    if len(now) == len(before) and all(map(_is_same, now, before)):
        return
    container.clear()
    if isinstance(container, dict):
        for key, item in before:  # a Counter's update counts
            container[key] = item
    else:
        (container.update if isinstance(container, set) else container.extend)(before)


def _is_same(one: Any, other: Any) -> bool:
    """By identity: numbers of a tensor are not compared; (key, value) of a dict part by part."""
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        return all(map(operator.is_, one, other))
    return one is other


@contextmanager
def paused_collection() -> Iterator[None]:
    """No cyclic garbage collection meanwhile: each pass over a million new records would cost as much as a layer."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def fixed_random_state() -> Iterator[None]:
    """Python's, NumPy's and torch's generators (those of every initialised accelerator too) are put back on leaving."""
    python, legacy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)
