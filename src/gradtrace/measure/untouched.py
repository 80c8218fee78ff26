"""The model goes back as it came: gradients, buffers, attributes, mode, and every generator of random numbers."""

from __future__ import annotations

import gc
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    buffers = [(module, dict(module._buffers)) for module in modules]
    contents = {id(buffer): (buffer, buffer.detach().clone()) for buffer in model.buffers() if not buffer.is_meta}
    attributes = [(module, {k: v for k, v in vars(module).items() if k not in _OWN}) for module in modules]
    with fixed_random_state():
        try:
            for parameter in parameters:
                parameter.grad = None
            yield
        finally:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            for module, before in buffers:
                module._buffers.clear()
                module._buffers.update(before)
            with torch.no_grad():
                for buffer, content in contents.values():
                    if not _same(buffer, content):
                        buffer.copy_(content)
            for module, before in attributes:
                _restore(module, before)


def _same(buffer: Tensor, content: Tensor) -> bool:
    return buffer.device.type == "cpu" and torch.equal(buffer, content)


def _restore(module: nn.Module, before: dict[str, Any]) -> None:
    now = vars(module)
    for name in [name for name in now if name not in before and name not in _OWN]:
        del now[name]
    for name, value in before.items():
        if now.get(name) is not value:
            now[name] = value


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
