"""How often does the world hold each entry of a parameter? Then the norm of the whole is a sum over all ranks.

With the local squares s_r of the ranks r of a mesh, on which each entry lies c times,

    |p|^2 = sum_r s_r / c

Where several meshes hold the same parameter (the groups of data parallelism around tensor parallelism, or every rank
for itself around plain tensors), each rank adds 1 / (size of its mesh) to a count that tells how many there are.
Nothing here speaks to another rank: of a `DTensor` only its mesh and its placements are read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Placement:
    """Of one tensor, as this rank sees it."""

    replication: int = 1
    """Ranks of the mesh that hold the same entry."""
    num_ranks: int = 1
    """In the mesh."""
    is_spread: bool = False
    """Whether it is a `DTensor`: what lies here may be a part."""
    is_known: bool = True
    """False where what lies here is a summand of the entries, or this rank is outside of the mesh."""

    @property
    def is_part(self) -> bool:
        """Whether what lies here may not be called the whole."""
        return self.is_spread and not (self.is_known and self.replication == self.num_ranks)


PLAIN = Placement()
NOT_KNOWN = Placement(is_spread=True, is_known=False)


def placement_of(tensor: Any) -> Placement:
    """Of any tensor.

    >>> import torch
    >>> placement_of(torch.ones(2))
    Placement(replication=1, num_ranks=1, is_spread=False, is_known=True)
    """
    mesh, placements = getattr(tensor, "device_mesh", None), getattr(tensor, "placements", None)
    if mesh is None or placements is None:
        return PLAIN
    sizes = tuple(mesh.shape)
    replication, is_known = 1, mesh.get_coordinate() is not None
    for size, placement in zip(sizes, placements, strict=True):
        if placement.is_replicate():
            replication *= size
        elif placement.is_partial() and size > 1:
            is_known = False
    return Placement(replication, math.prod(sizes), True, is_known)
