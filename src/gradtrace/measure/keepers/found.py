"""What a keeper returns: what puts an object's own state back, and what else the object holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import BuiltinFunctionType, CodeType, ModuleType
from typing import Any, Protocol

import torch

PutBack = Callable[[], str | None]
"""Puts a state back, or says in words why it could not."""


@dataclass(slots=True)
class Found:
    """One object's own state, and the objects that it holds, with their names in it."""

    put_back: Iterable[tuple[PutBack, str]] = ()
    inside: Iterable[tuple[str, Any]] = ()


class Budget(Protocol):
    """Says whether a copy may be made."""

    def take(self, num_bytes: int) -> bool:
        """Whether that many bytes are still within the bounds."""


class NotKeptError(Exception):
    """Why an object is left as it may become, in words."""


Keeper = Callable[[Any, Budget], Found]

ATOMIC = frozenset({
    int, float, complex, bool, str, bytes, type(None), type(Ellipsis), range, slice, torch.dtype, torch.device,
    torch.layout, torch.memory_format, torch.Size, ModuleType, BuiltinFunctionType, CodeType,
})  # fmt: skip
"""Types without state."""
MISSING = object()
