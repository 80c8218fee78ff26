"""Weights of which each rank holds a part, as `fully_shard` lays them out: within their module's call they are whole.

The whole one is a tensor of its own. It lies on the tape in place of the registered one, and its memory is freed behind
the call. Nothing here speaks to other ranks.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch

from gradtrace.tape.private import parameters_of, without_modes

if TYPE_CHECKING:
    from torch import Tensor, nn


def is_spread(tensor: Any) -> bool:
    """Whether it lies on several ranks (a `DTensor`): its ops would speak to them."""
    mesh = getattr(tensor, "device_mesh", None)
    return mesh is not None and mesh.size() > 1


def class_of(module: nn.Module) -> type[nn.Module]:
    """The user's own: `fully_shard` puts a class of its making in front."""
    kind = type(module)
    if gathers(module) and len(kind.__bases__) == 2:
        return kind.__bases__[1]
    return kind


def gathers(module: nn.Module) -> bool:
    """Whether it has weights gathered for its call, by `fully_shard`."""
    sharded = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    return sharded is not None and isinstance(module, sharded)


def _is_part(tensor: Any) -> bool:
    """Also of a world of one rank, where it is all."""
    return getattr(tensor, "device_mesh", None) is not None


class Gathered:
    """Of one model's forward pass."""

    def __init__(self, model: nn.Module) -> None:
        registered = list(model.named_parameters(remove_duplicate=False))
        first: dict[int, str] = {}
        for name, parameter in registered:
            first.setdefault(id(parameter), name)
        self._parts = {name: first[id(parameter)] for name, parameter in registered if _is_part(parameter)}
        """By every name of a part: the one that it is told under."""
        self.tensors: dict[str, Tensor] = {}
        self.norms: dict[str, Tensor] = {}

    def come(self, path: str, module: nn.Module) -> dict[str, Tensor]:
        """The call of `module`, at `path`, begins: its weights that have just become whole, by name."""
        new: dict[str, Tensor] = {}
        if not self._parts or not gathers(module):
            return new
        for prefix, inner in module.named_modules(prefix=path):
            for key, parameter in parameters_of(inner).items():
                name = self._parts.get(f"{prefix}.{key}" if prefix else key)
                if name is not None and name not in self.tensors and not _is_part(parameter):
                    assert parameter is not None
                    new[name] = parameter
        with torch.no_grad(), without_modes():
            for name, whole in new.items():
                self.norms[name] = torch.linalg.vector_norm(whole.detach(), dtype=torch.float64)
        self.tensors |= new
        return new

    @property
    def missing(self) -> set[str]:
        """Parts of which nobody saw the whole."""
        return {*self._parts.values()} - self.tensors.keys()
