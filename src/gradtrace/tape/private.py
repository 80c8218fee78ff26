"""Names of torch that are not public, in one place, each with a fallback that the tests exercise."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import overrides

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from torch.autograd.graph import Node
    from torch.overrides import TorchFunctionMode

LEAF_SEQUENCE_NR = 2**63
"""Leaves (``AccumulateGrad``) carry the largest unsigned number: they have no place in the order."""


def sequence_nr() -> int:
    """The number that the next recorded op of this thread will carry."""
    read = getattr(torch.autograd, "_get_sequence_nr", None)
    if read is not None:
        return int(read())
    with torch.enable_grad():  # a throw-away node takes a number: ours is the one after it
        node = torch.ones((), requires_grad=True).view(()).grad_fn
    assert node is not None
    return node_sequence_nr(node) + 1


def node_sequence_nr(node: Node) -> int:
    """The number that `node` was recorded with; leaves give `LEAF_SEQUENCE_NR` or more."""
    return int(node._sequence_nr())


def saved_hooks_active() -> bool:
    """Whether saved tensors are being packed (checkpointing, offloading): reading them may recompute a forward."""
    read = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return read is not None and read(True) is not None


def is_packed(node: Node, key: str) -> bool:
    """Whether hooks packed what `node` saved under `key` (``_saved_self``): reading it may recompute a forward."""
    return getattr(getattr(node, f"_raw{key}", None), "unpack_hook", None) is not None


def inside_functorch() -> bool:
    """Whether vmap, grad or jvp of torch.func is running: tensors are wrapped and must not be measured."""
    read = getattr(torch._C._functorch, "peek_interpreter_stack", None)
    return read is not None and read() is not None


def inside_fake() -> bool:
    """Whether tensors hold no numbers for now: torch.export, or a `FakeTensorMode` of the user's, is at work."""
    keys = getattr(torch._C, "_TorchDispatchModeKey", None)
    return keys is not None and torch._C._get_dispatch_mode(keys.FAKE) is not None


def input_metadata(node: Node) -> Any:
    """Shape, dtype and device of each gradient that `node` receives."""
    return node._input_metadata


def sink_mode(mode: TorchFunctionMode) -> None:
    """Put an active function mode below those of the user in this thread, which may then come and go above it.

    A default device (`torch.set_default_device`) stays at the very bottom, where torch itself looks for it.
    """
    others = [other for other in _modes() if other is not mode]
    default = getattr(getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None), "device_context", None)
    place = int(bool(others) and others[0] is default)
    _rearrange([*others[:place], mode, *others[place:]])


def lift_mode(mode: TorchFunctionMode) -> None:
    """Take a function mode away, wherever it lies; none of this thread's is left as it was."""
    if any(other is mode for other in _modes()):
        _rearrange([other for other in _modes() if other is not mode])


@contextlib.contextmanager
def without_modes() -> Iterator[None]:
    """No function mode in this thread meanwhile."""
    modes = _modes()
    _rearrange([])
    try:
        yield
    finally:
        _rearrange(modes)


def _modes() -> list[TorchFunctionMode]:
    return list(overrides._get_current_function_mode_stack())


def _rearrange(wanted: list[TorchFunctionMode]) -> None:
    for _ in _modes():
        overrides._pop_mode()
    for mode in wanted:
        overrides._push_mode(mode)


def anything_compiled() -> bool:
    """Whether torch.compile was called in this process: what it made would compile again, or fail, under our mode."""
    frames = sys.modules.get("torch._dynamo.eval_frame")  # optimizers import it as well
    if frames is None:
        return False
    backends = getattr(frames, "cached_backends", None)
    if backends is not None:
        return any(backend is not None for backend in backends.values())  # None: of torch._dynamo.disable
    return bool(getattr(sys.modules.get("torch._dynamo.utils"), "counters", {}).get("frames"))


def joined(tensors: list[Tensor]) -> Tensor:
    """All elements of tensors of one dtype and device, one after the other."""
    flatten = getattr(torch._C._nn, "flatten_dense_tensors", None)  # one call, where the way below takes one a tensor
    if flatten is not None:
        whole: Tensor = flatten(tensors)
        return whole
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
