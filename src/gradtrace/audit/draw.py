"""How are weights drawn with a given mean square? Gaussian, orthogonal, delta-orthogonal.

Orthogonal weights make all singular values equal (Saxe et al., Exact solutions, 2014); a delta-orthogonal kernel is
zero but in its middle, where it is orthogonal (Xiao et al., Dynamical isometry of CNNs, 2018).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor

METHODS = ("gaussian", "orthogonal", "delta_orthogonal", "lsuv")


def draw_(weight: Tensor, mean_square: float, method: str, generator: Generator | None, groups: int = 1) -> None:
    """Fill `weight` [units, inputs / groups, *kernel] in place, so that the mean of its squares is `mean_square`."""
    with torch.no_grad():
        if method == "gaussian":
            weight.normal_(0.0, math.sqrt(mean_square), generator=generator)
            return
        weight.zero_()
        centre = weight
        if method == "delta_orthogonal" and weight.dim() > 2:
            for size in reversed(weight.shape[2:]):
                centre = centre[..., size // 2]
        for block in centre.chunk(groups):
            block.copy_(orthogonal(block, generator))
        weight.mul_(math.sqrt(mean_square / float(weight.double().square().mean())))


def orthogonal(like: Tensor, generator: Generator | None) -> Tensor:
    """A (semi-)orthogonal matrix in the shape of `like`, uniformly distributed (QR with the signs of R taken out)."""
    rows, columns = like.shape[0], like[0].numel()
    noise = torch.empty(max(rows, columns), min(rows, columns), device=like.device).normal_(generator=generator)
    Q, R = torch.linalg.qr(noise)
    Q = Q * R.diagonal().sign()
    found: Tensor = (Q if rows >= columns else Q.T).reshape(like.shape).to(like.dtype)
    return found
