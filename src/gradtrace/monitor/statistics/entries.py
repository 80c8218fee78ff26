"""What a norm does not tell of a gradient: its largest entry, and how many are zero or not finite.

These take passes of their own over each gradient: they are taken where weights are copied, and not at each step.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@torch.no_grad()
def entries(tensors: Sequence[Tensor | None], scale: Tensor | None = None) -> Tensor:
    """Largest entries by absolute value, then numbers of zeros, then of NaN and Inf: [3 * tensors].

    NaN where there is no tensor. Of what lies in this process; the largest is divided by `scale`, if there is one, and
    infinite where any is NaN.

    >>> entries([torch.tensor([0.0, -3.0]), None, torch.tensor([float("nan"), 1.0])]).reshape(3, 3)
    tensor([[3., nan, inf],
            [1., nan, 0.],
            [0., nan, 1.]])
    """
    found = [None if tensor is None else _of(tensor, scale) for tensor in tensors]
    device = next((one.device for one in found if one is not None), torch.device("cpu"))
    unknown = torch.full((3,), math.nan, dtype=torch.float32, device=device)
    if not found:
        return unknown[:0]
    return torch.stack([unknown if one is None else one.to(device) for one in found], dim=1).reshape(-1)


def _of(tensor: Tensor, scale: Tensor | None) -> Tensor:
    local = getattr(tensor, "to_local", None)
    tensor = (local() if local is not None else tensor).detach()
    num = tensor.numel()
    if tensor.layout is not torch.strided:
        tensor = tensor.coalesce().values() if tensor.is_sparse else tensor.to_dense()
    size = tensor.abs()
    largest = size.max().float() if tensor.numel() else torch.zeros((), device=tensor.device)
    largest = torch.where(torch.isnan(largest), math.inf, largest)
    if scale is not None:
        largest = largest / scale.to(largest.device).reshape(())
    zeros = num - torch.count_nonzero(size)
    return torch.stack([largest, zeros.float(), (~torch.isfinite(size)).sum().float()])
