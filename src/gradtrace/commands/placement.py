"""How do a model and its batches come to another device? Tensors are found in tuples, lists, dicts and dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gradtrace.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gradtrace.commands.target import Target


def place(target: Target, device: str) -> Target:
    """The target with its model (in place) and its batches (as they are drawn) on `device`; raises `InputError`."""
    import torch

    try:
        where = torch.device(device)
        torch.empty(1, device=where)
        target.model.to(where)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"--device {device}: {str(error).strip().splitlines()[0]}") from error
    held_out = Moved(target.held_out, where) if target.held_out is not None else None
    return dataclasses.replace(target, batches=Moved(target.batches, where), held_out=held_out)


class Moved:
    """Batches that are moved one by one, each time they are drawn."""

    def __init__(self, batches: Any, device: Any) -> None:
        self._batches = batches
        self._device = device

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            yield move(batch, self._device)

    def __len__(self) -> int:
        return len(self._batches)


def move(value: Any, device: Any) -> Any:
    """`value` with every tensor (anything with ``.to``) on `device`; containers keep their types."""
    if isinstance(value, Mapping):
        moved = {key: move(each, device) for key, each in value.items()}
        return moved if type(value) is dict else type(value)(moved)  # type: ignore[call-arg]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(move(each, device) for each in value))
    if isinstance(value, (list, tuple)):
        return type(value)(move(each, device) for each in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and not hasattr(value, "to"):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{name: move(getattr(value, name), device) for name in fields})
    return value.to(device) if hasattr(value, "to") else value
