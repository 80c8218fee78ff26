"""Embeddings that were drawn far above one, scaled down: their rows are what the first layer meets.

Initialisations assume inputs of mean square about one (LeCun et al. 1998, section 4.3), as torch.nn.Embedding's own has
it. Smaller ones are left alone: a norm, or a factor of sqrt(width), often stands behind them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from gradtrace.diagnosis.thresholds import INPUT_RMS
from gradtrace.records.change import Change
from gradtrace.records.vocabulary import Cause
from gradtrace.repair.changes.kind import Kind

if TYPE_CHECKING:
    from gradtrace.repair.situation import Situation
    from gradtrace.repair.twin import Twin

_CAUSES = {Cause.SATURATED_PREACTIVATION, Cause.INPUT_SCALE, Cause.LARGE_WEIGHTS, Cause.LEARNING_RATE,
           Cause.ATTENTION_SATURATION}  # fmt: skip


def propose(situation: Situation) -> list[Change]:
    """Each embedding whose root mean square is ten and more; a row of zeros for padding stays one."""
    if not _CAUSES & set(situation.causes):
        return []
    sizes = {
        f"{path}.weight" if path else "weight": float(module.weight.detach().double().square().mean().sqrt())
        for path, module in situation.model.named_modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.weight.numel()
    }
    return [_change(name, size) for name, size in sizes.items() if INPUT_RMS <= size < math.inf]


def _change(name: str, size: float) -> Change:
    factor = float(f"{1.0 / size:.2g}")
    return Change(
        kind="embedding",
        title=f"Scale {name} by {factor:g}, to a root mean square of one.",
        where=(name,),
        reason=f"it is {size:.3g}, and the first layer's weights are made for one",
        numbers=(("factor", factor),),
        code=f"with torch.no_grad():\n    model.get_parameter({name!r}).mul_({factor:g})",
        source="LeCun et al. 1998",
    )


def apply(change: Change, twin: Twin) -> None:
    """In place."""
    with torch.no_grad():
        twin.model.get_parameter(change.where[0]).mul_(change.number("factor"))


KIND = Kind(propose, apply)
