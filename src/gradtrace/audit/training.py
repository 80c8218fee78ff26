"""Do the weights look fresh? Independent entries have a largest singular value near sigma (sqrt m + sqrt n).

Training adds directions that stand out of it (Martin & Mahoney, Implicit self-regularization in deep networks, 2021).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

STANDS_OUT = 1.5
"""Largest singular value over that of independent entries; random matrices of 32 and wider stay under 1.2."""
_REFERENCE = "the prediction is a reference, the measurement decides"
MOST = 12
"""Weights looked at."""


def signs_of_training(model: nn.Module) -> list[str]:
    """Sentences that say why the weights do not look fresh; none where they do."""
    tracked = [b for name, b in model.named_buffers() if name.endswith("num_batches_tracked")]
    if any(int(buffer) > 0 for buffer in tracked):
        return [f"batch norm has tracked batches: if the model is trained, {_REFERENCE}"]
    weights = [
        (name, p)
        for name, p in model.named_parameters()
        if p.dim() >= 2 and min(p.shape[0], p[0].numel()) >= 32 and p.is_floating_point()
    ]
    step = max(1, math.ceil(len(weights) / MOST))
    outliers = [name for name, p in weights[::step] if excess(p) > STANDS_OUT]
    if not outliers:
        return []
    return [f"{outliers[0]} has directions that stand out, as trained weights have: {_REFERENCE}"]


def copied_layers(model: nn.Module) -> list[str]:
    """A sentence where different layers hold the same weights, as all those of a fresh `nn.TransformerEncoder` do.

    >>> from copy import deepcopy
    >>> layer = torch.nn.Linear(4, 4)
    >>> copied_layers(torch.nn.Sequential(layer, deepcopy(layer)))[0].split(":")[0]
    '0.weight and 1 other weights hold the same numbers'
    """
    alike: dict[tuple[object, ...], list[str]] = {}
    for name, p in model.named_parameters():
        if p.dim() >= 2 and p.numel() > 8 and p.is_floating_point():
            sums = torch.stack((p.detach().double().sum(), p.detach().double().square().sum(), p.detach().flatten()[0]))
            alike.setdefault((tuple(p.shape), *sums.tolist()), []).append(name)
    for (_, _, square, _), names in alike.items():
        if len(names) > 1 and square not in (0.0, float(model.get_parameter(names[0]).numel())):
            told = f"{names[0]} and {len(names) - 1} other weights hold the same numbers: copies of one layer are not "
            return [f"{told}independent, {_REFERENCE}; initialise each anew"]
    return []


def excess(weight: Tensor, num_steps: int = 12) -> float:
    """Largest singular value, by power iteration, over sigma (sqrt m + sqrt n).

    >>> excess(torch.randn(64, 64, generator=torch.Generator().manual_seed(0))) < 1.1, excess(torch.ones(64, 64)) > 3
    (True, True)
    """
    W = weight.detach().flatten(1).float()
    m, n = W.shape
    sigma = float(W.square().mean().sqrt())
    if sigma == 0 or not math.isfinite(sigma):
        return 0.0
    v = torch.randn(n, generator=torch.Generator().manual_seed(0)).to(W.device)
    for _ in range(num_steps):
        v = torch.nn.functional.normalize(W.T @ (W @ v), dim=0)
    return float((W @ v).norm()) / (sigma * (math.sqrt(m) + math.sqrt(n)))
