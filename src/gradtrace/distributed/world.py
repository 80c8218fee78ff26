"""Is this process one of several that train together, and where do they leave word for each other?"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from typing import Any

_NUMBERS = itertools.count()
"""Of the watches that were begun in this world: the same on every rank where every rank begins the same."""


@dataclass(frozen=True, slots=True)
class World:
    """One watch's, as this process sees it."""

    rank: int
    size: int
    store: Any
    """What the ranks share: a connection of our own to it, where torch gives one."""
    prefix: str

    @property
    def reports(self) -> bool:
        """Whether this is the rank that tells of all."""
        return self.rank == 0


def find_world() -> World | None:
    """None: this process trains alone."""
    dist: Any = sys.modules.get("torch.distributed")
    if dist is None or not dist.is_available() or not dist.is_initialized():
        return None
    if dist.get_world_size() < 2 or dist.get_backend() == "fake":
        return None
    return World(dist.get_rank(), dist.get_world_size(), _store(), f"gradtrace/{next(_NUMBERS)}")


def is_over() -> bool:
    """Whether the script has let go of the others: what they shared may be gone with it."""
    dist: Any = sys.modules.get("torch.distributed")
    return dist is None or not dist.is_initialized()


def _store() -> Any:
    from gradtrace.tape.private import own_store

    return own_store()
