"""Norms of many tensors at once: one fused kernel a device and format, and right at both ends of float32's range.

A sum of squares in float32 loses what is below 1e-19 and overflows above 1e+19. Where looking costs nothing (on the
CPU), norms at either end are taken again in float64: a gradient of 1e-25 is vanishing, and not zero.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradtrace.monitor.statistics.transfer import sent
from gradtrace.tape.private import foreach

if TYPE_CHECKING:
    from collections.abc import Sequence

SMALLEST_SAFE = 1e-15
"""Squares of entries that matter to such a norm are still normal numbers of float32 (above 1e-38)."""

_LARGEST = torch.finfo(torch.float32).max
_ACCUMULATE = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@torch.no_grad()
def norms(tensors: Sequence[Tensor | None]) -> Tensor:
    """The norm of each as one vector, on the device of the first: NaN where there is none, Inf where it holds a NaN.

    >>> norms([torch.tensor([3.0, 4.0]), None, torch.tensor([float("nan")]), torch.tensor([3e-25, 4e-25])])
    tensor([5.0000e+00,        nan,        inf, 5.0000e-25])
    """
    groups: dict[tuple[torch.device, torch.dtype], tuple[list[int], list[Tensor]]] = {}
    for i, tensor in enumerate(tensors):
        if tensor is None:
            continue
        tensor = plain(tensor)
        places, members = groups.setdefault((tensor.device, tensor.dtype), ([], []))
        places.append(i)
        members.append(tensor)
    each = [(places, _fused(members, dtype)) for (_, dtype), (places, members) in groups.items()]
    if len(each) == 1 and len(each[0][0]) == len(tensors):
        return each[0][1]
    device = each[0][1].device if each else torch.device("cpu")
    found = torch.full((len(tensors),), math.nan, dtype=torch.float32, device=device)
    for places, values in each:
        found.index_copy_(0, sent(places, device), values.to(device, non_blocking=True))
    return found


_PLAIN = (Tensor, torch.nn.Parameter)


def _fused(tensors: list[Tensor], dtype: torch.dtype) -> Tensor:
    found = torch.stack(foreach("norm")(tensors, 2, dtype=_ACCUMULATE.get(dtype))).float()
    if found.device.type != "cpu":
        return torch.where(torch.isnan(found), math.inf, found)
    host = found.numpy()
    if not (host.min(initial=1.0) >= SMALLEST_SAFE and host.max(initial=1.0) <= _LARGEST):
        for i, norm in enumerate(host.tolist()):
            if not SMALLEST_SAFE <= norm <= _LARGEST:
                exact = float(torch.linalg.vector_norm(tensors[i], dtype=torch.float64))
                host[i] = min(exact, _LARGEST) if math.isfinite(exact) else math.inf
    return found


def plain(tensor: Tensor) -> Tensor:
    """The numbers that a tensor holds in this process, dense, real and of a format that kernels take."""
    if tensor.dtype in _FLOATS and tensor.layout is torch.strided and type(tensor) in _PLAIN:
        return tensor
    if tensor.layout is not torch.strided:
        tensor = tensor.coalesce().values() if tensor.is_sparse else tensor.to_dense()
    local = getattr(tensor, "to_local", None)
    tensor = local() if local is not None else tensor
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor if tensor.dtype in _FLOATS else tensor.float()
