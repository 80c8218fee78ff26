"""Tensors, arrays and modules: what memory a tensor is made of, what is in it, and whatever a module holds.

Of weights the memory is kept and not what is in it, which would take as much again: one written to in place is said.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from gradtrace.measure.keepers.containers import Entries
from gradtrace.measure.keepers.found import ATOMIC, Budget, Found, NotKeptError, PutBack
from gradtrace.measure.keepers.objects import Attributes
from gradtrace.tape.private import buffers_of, nbytes_of, parts_of, version_of

if TYPE_CHECKING:
    from collections.abc import Sequence


def keep_module(module: nn.Module, _: Budget) -> Found:
    """Attributes, hooks, parameters, buffers (with what is in them) and modules."""
    attributes = vars(module)
    put_back: list[tuple[PutBack, str]] = [(Attributes(attributes), "")]
    inside: list[tuple[str, Any]] = []
    for name in _OWN:
        if own := attributes[name]:
            put_back.append((Entries(own), name))
            inside += own.items() if name != "_buffers" else ()
    for name, buffer in buffers_of(module).items():
        if buffer is not None and _has_numbers(buffer):
            put_back.append((partial(_content_back, *_content(buffer)), name))
    try:
        hooks = _HOOKS(attributes)
    except KeyError:  # made by an older torch
        hooks = tuple(value for value in attributes.values() if type(value) is OrderedDict)
    put_back.append((_Hooks(hooks), ""))
    inside += [(k, value) for k, value in attributes.items() if type(value) not in ATOMIC and k not in _STANDARD]
    inside.append(("type", type(module)))
    return Found(put_back, inside)


_OWN = ("_parameters", "_buffers", "_modules")
_HOOK_NAMES = tuple(name for name, value in vars(nn.Module()).items() if type(value) is OrderedDict)
_HOOKS = itemgetter(*_HOOK_NAMES)
_STANDARD = {*_OWN, *_HOOK_NAMES}


class _Hooks:
    """A module's dozen of dictionaries of hooks, nearly all of them empty."""

    __slots__ = ("_before", "_now")

    def __init__(self, now: tuple[Any, ...]) -> None:
        self._now = now
        self._before = [Entries(hooks) for hooks in now] if any(now) else None

    def __call__(self) -> None:
        if self._before is not None:
            for entries in self._before:
                entries()
        elif any(self._now):
            for hooks in self._now:
                hooks.clear()


def keep_tensor(tensor: Tensor, budget: Budget) -> Found:
    """What it is made of, what is in it, its gradient and its attributes."""
    if not _has_numbers(tensor):
        return Found()
    put_back: list[tuple[PutBack, str]] = [(Attributes(vars(tensor)), "")] if vars(tensor) else []
    if isinstance(tensor, nn.Parameter):
        return Found([(partial(_weight_back, tensor, tensor.detach(), version_of(tensor), tensor.grad), ""), *put_back])
    if budget.take(nbytes_of(tensor)):
        put_back.append((partial(_content_back, *_content(tensor)), ""))
    else:
        put_back.append((partial(_too_large, tensor, tensor.detach(), version_of(tensor)), ""))
    return Found(put_back, [("grad", tensor.grad)] if tensor.is_leaf and tensor.grad is not None else [])


def _has_numbers(tensor: Tensor) -> bool:
    return not tensor.is_meta and not isinstance(tensor, UninitializedBuffer | UninitializedParameter)


def _content(tensor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    memory = tensor.detach()
    return tensor, memory, memory.clone()


def _content_back(tensor: Tensor, memory: Tensor, content: Tensor) -> None:
    _memory_back(tensor, memory)
    if not _same(tensor.detach(), content):
        with torch.inference_mode(tensor.is_inference()), torch.no_grad():
            (tensor.data if tensor.layout is torch.strided else tensor).copy_(content)  # another's indices are its own


def _weight_back(weight: Tensor, memory: Tensor, version: int, gradient: Tensor | None) -> str | None:
    if weight.grad is not gradient:
        weight.grad = gradient
    _memory_back(weight, memory)
    return "a weight that was written to in place" if version_of(weight) != version else None


def _too_large(tensor: Tensor, memory: Tensor, version: int) -> str | None:
    _memory_back(tensor, memory)
    return "written to in place, and larger than what is copied" if version_of(tensor) != version else None


def _memory_back(tensor: Tensor, memory: Tensor) -> None:
    if tensor.layout is not torch.strided or tensor.is_nested:
        return
    if tensor.data_ptr() != memory.data_ptr() or tensor.shape != memory.shape:
        tensor.data = memory


def _same(now: Tensor, content: Tensor) -> bool:
    """Where a look costs nothing."""
    if now.device.type != "cpu" or now.is_nested or now.is_quantized:
        return False
    parts = zip(parts_of(now), parts_of(content), strict=True)
    return all(part.layout is torch.strided and torch.equal(part, other) for part, other in parts)


def keep_array(values: np.ndarray, budget: Budget) -> Found:
    """What is in it, where it may be written to."""
    if not values.flags.writeable:
        return Found()
    if not budget.take(values.nbytes):
        raise NotKeptError(f"an array of {values.nbytes / 2**20:.0f} MiB is more than is copied")
    content = values.copy()

    def put_back() -> None:
        if not np.array_equal(values, content):
            np.copyto(values, content)

    inside: Sequence[tuple[str, Any]] = (
        [(str(i), v) for i, v in enumerate(values.flat)] if values.dtype.hasobject else ()
    )
    return Found([(put_back, "")], inside)
