"""What had a script made of its last forward pass when it gave up? What its variables still hold of it.

Many a script guards itself: ``if not math.isfinite(loss): sys.exit(1)``. No backward pass is ever called on that loss.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch

from gradtrace.tape.private import node_sequence_nr

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_ELEMENTS = 2**20
"""A larger tensor is no loss."""


def latest_tensors(error: BaseException | None) -> list[torch.Tensor]:
    """Tensors with a tape in variables of the script and of the functions that `error` came through; latest first."""
    found: dict[int, torch.Tensor] = {}
    for scope in _scopes(error):
        for value in list(scope.values()):
            if (
                isinstance(value, torch.Tensor)
                and value.grad_fn is not None
                and value.is_floating_point()
                and value.numel() <= MOST_ELEMENTS
            ):
                found[id(value)] = value
    return sorted(found.values(), key=lambda tensor: -node_sequence_nr(tensor.grad_fn))  # type: ignore[arg-type]


def _scopes(error: BaseException | None) -> Iterator[dict[str, Any]]:
    main = sys.modules.get("__main__")
    yield vars(main) if main is not None else {}
    traceback = error.__traceback__ if error is not None else None
    while traceback is not None:
        yield dict(traceback.tb_frame.f_locals)
        traceback = traceback.tb_next
