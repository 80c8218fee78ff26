"""Names of torch that are not public, in one place, each with a fallback that the tests exercise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch.autograd.graph import Node

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


def inside_functorch() -> bool:
    """Whether vmap, grad or jvp of torch.func is running: tensors are wrapped and must not be measured."""
    read = getattr(torch._C._functorch, "peek_interpreter_stack", None)
    return read is not None and read() is not None


def input_metadata(node: Node) -> Any:
    """Shape, dtype and device of each gradient that `node` receives."""
    return node._input_metadata
