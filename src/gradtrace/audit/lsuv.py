"""Layer-sequential unit variance: scale each layer until its output has variance 1 on the data itself.

Source: Mishkin & Matas, All you need is a good init (2016), algorithm 1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from gradtrace.audit.arguments import Arguments

if TYPE_CHECKING:
    from torch import Tensor, nn

TOLERANCE = 0.02
MOST_TRIALS = 10


def scale_to_unit_variance_(model: nn.Module, example_input: Any, branches: dict[str, float]) -> list[str]:
    """Scale the layers of these weights to unit variance, ends of residual branches to that of their scale.

    Returns sentences about those that would not.
    """
    layers = {name.removesuffix(".weight"): scale for name, scale in branches.items() if name.endswith(".weight")}
    notes = []
    for path, scale in layers.items():
        module = model.get_submodule(path)
        weight = getattr(module, "weight", None)
        if weight is None or weight.dim() < 2:
            continue
        for _ in range(MOST_TRIALS):
            variance = _output_variance(model, module, example_input) / scale**2
            if not 0 < variance < math.inf:
                notes.append(f"{path}: its output has variance {variance:.3g}, so LSUV could not scale it")
                break
            if abs(variance - 1) < TOLERANCE:
                break
            with torch.no_grad():
                weight.div_(math.sqrt(variance))
    return notes


def _output_variance(model: nn.Module, module: nn.Module, example_input: Any) -> float:
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _m, _i, output: seen.append(output))
    try:
        with torch.no_grad():
            Arguments.of(example_input).call(model)
    finally:
        handle.remove()
    return float(seen[0].double().var()) if seen and isinstance(seen[0], torch.Tensor) else math.nan
