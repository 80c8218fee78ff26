"""Is an output on the flat side of its squashing function, although descent leads off it? And does the loss make up?

Behind a sigmoid the gradient is dL/dz = dL/ds s'(z). A likelihood makes up for the slope: -log s has dL/ds = -1/s, so
that dL/dz = -(1 - s) is as large on the flat side as can be. Others do not: log(1 - s), which a generator lowers in the
minimax game, has dL/dz = -s (Goodfellow et al. 2014, section 3), and (s - 1)^2 has -2 (1 - s) s'. Among the examples

    log |dL/dz| = slope * log s' + const.    slope 0: the loss makes up for all of it    slope 1: for nothing

A classifier that is right lies as flat and its gradient is as small, but descent leads it further in, and not off.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from gradtrace.measure.seen import SATURATED_FRAC
from gradtrace.tape.kinds import base_name
from gradtrace.tape.private import is_packed, is_saved, saved

if TYPE_CHECKING:
    from torch import Tensor
    from torch.autograd.graph import Node

_SAVED = {"Sigmoid": "result", "Tanh": "result", "LogSigmoid": "self", "Softplus": "self"}
_TOLD = 10.0
"""[times the format's eps] Standard deviation of log s' from which on rounding moves the slope by a tenth at most."""


def plateau(node: Node, passed: Tensor, received: Tensor) -> Tensor | None:
    """[4] on the device: of all entries, the fraction on the flat side that descent leads off it; of the flat ones ...

    ... that fraction; the decades that the slope takes of them, -log10 s' / max s' on average; and how much of that is
    left in the gradient (1: all of it; NaN: they lie too close together to tell).
    """
    shape = passed.shape
    steepness = _steepness(node)
    if steepness is None or steepness[0].shape != shape or not passed.numel() or passed.is_complex():
        return None
    slope, rises = (part.float() for part in steepness)
    received = received.float().expand(shape)
    flat = slope < SATURATED_FRAC
    off = flat & (received * rises > 0.0)  # descent goes along -dL/ds, and s' grows that way
    # what is left of s' in the gradient
    counted = off & (passed != 0.0) & (slope > 0.0)
    x = torch.where(counted, slope, 1.0).log()
    y = torch.where(counted, passed.float().abs(), 1.0).log()
    num = counted.sum()
    x_away = torch.where(counted, x - x.sum() / num, 0.0)
    y_away = torch.where(counted, y - y.sum() / num, 0.0)
    variance = x_away.square().sum() / num
    left = (x_away * y_away).sum() / num / variance
    least = (_TOLD * torch.finfo(passed.dtype).eps) ** 2
    left = torch.where(variance > least, left, math.nan)
    left = torch.where(off.any() & (num == 0), 1.0, left)  # rounded away: nothing made up for it
    tiny = torch.finfo(torch.float32).tiny
    lost = -torch.where(off, slope.clamp(min=tiny), 1.0).log10().sum() / off.sum()
    return torch.stack([off.float().mean(), off.sum() / flat.sum(), lost, left])


def _steepness(node: Node) -> tuple[Tensor, Tensor] | None:
    """|s'| over its maximum at each entry, and whether |s'| grows as s falls (1) or as it rises (-1)."""
    kind = base_name(node.name())
    if kind == "BinaryCrossEntropyWithLogits":
        if not is_saved(node, "self") or is_packed(node, "_saved_self"):
            return None
        distance = (torch.sigmoid(saved(node, "self").float()) - saved(node, "target").float()).abs()
        return distance, -torch.ones_like(distance)
    name = _SAVED[kind]
    if not is_saved(node, name) or is_packed(node, f"_saved_{name}"):
        return None
    value = saved(node, name).float()
    if kind == "Sigmoid":
        return 4.0 * value * (1.0 - value), torch.sign(value - 0.5)
    if kind == "Tanh":
        return 1.0 - value.square(), torch.sign(value)
    if kind == "LogSigmoid":
        return torch.sigmoid(-value), torch.ones_like(value)
    return torch.sigmoid(float(saved(node, "beta", 1.0)) * value), -torch.ones_like(value)
