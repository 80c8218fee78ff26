"""A number format that holds the numbers: float32, or bfloat16 whose range is the same.

Micikevicius et al., Mixed precision training (2018); Kalamkar et al., A study of bfloat16 (2019).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradtrace.records.repair import Change
from gradtrace.records.vocabulary import Cause
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.twin import Twin

if TYPE_CHECKING:
    from gradtrace.repair.situation import Situation

_FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def propose(situation: Situation) -> list[Change]:
    """For half-precision parameters."""
    halves = {p.dtype for p in situation.model.parameters()} & {torch.float16, torch.bfloat16}
    if Cause.NUMERIC_FORMAT not in situation.causes or not halves:
        return []
    names = ["float32"] + (["bfloat16"] if torch.float16 in halves else [])
    return [
        Change(
            kind="formats",
            title=f"Keep the weights in {name}.",
            where=("model",),
            reason="numbers below 6e-8 are zero in float16, and steps below 1/256 of a weight are lost in bfloat16",
            words=(("format", name),),
            code=f"model.to(torch.{name})  # and its inputs: x.to(torch.{name})",
            source="Micikevicius et al. 2018",
        )
        for name in names
    ]


class Cast:
    """A pre-hook: floating arguments in the model's format."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, _module: nn.Module, args: Any, kwargs: Any) -> Any:
        """The arguments, cast."""
        return tuple(map(self._cast, args)), {name: self._cast(value) for name, value in kwargs.items()}

    def _cast(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.to(self.dtype)
        return type(value)(map(self._cast, value)) if type(value) in (tuple, list) else value


def apply(change: Change, twin: Twin) -> None:
    """Parameters and floating buffers keep their identity, so that the optimizer goes on with them."""
    dtype = _FORMATS[change.word("format")]
    parameters = list(twin.model.parameters())
    twin.forget(parameters)
    twin.model.to(dtype)
    twin.model.register_forward_pre_hook(Cast(dtype), with_kwargs=True)


KIND = Kind(propose, apply)
