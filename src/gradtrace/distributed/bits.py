"""Are weights the same to the bit on all ranks? A sum of their bits as whole numbers, the same in whatever order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from gradtrace.distributed.report.fields import MOST_SUM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def bit_sums(tensors: Sequence[Tensor | None]) -> Tensor:
    """One number below `MOST_SUM` for each, together on the device of the first; NaN where there is none.

    >>> bit_sums([torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0]), None])
    tensor([3194., 3194.,   nan])
    """
    found = [_bit_sum(tensor) for tensor in tensors]
    device = next((one.device for one in found if one is not None), torch.device("cpu"))
    unknown = torch.full((), math.nan, dtype=torch.float32, device=device)
    return torch.stack([unknown if one is None else one.to(device) for one in found]) if found else unknown[None][:0]


def _bit_sum(tensor: Tensor | None) -> Tensor | None:
    if tensor is None or tensor.layout is not torch.strided:
        return None
    real = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    kind = _WHOLE.get(real.element_size())
    return None if kind is None else real.view(kind).sum(dtype=torch.int64).remainder(MOST_SUM).float()
