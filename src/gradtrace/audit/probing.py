"""What does one call do to a gradient? It is called again, on copies, and differentiated with random cotangents.

For functions without a rule; and for those that pick some time steps out of what a recurrence made.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradtrace.tape.dataflow import tensors_in
from gradtrace.theory.through_time import MOST_LAGS

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST_SPREAD = 0.5
"""A ratio of 1.6 between the energies of two probes; of a hundred independent entries each it is 1.2."""


def local_growth(
    function: Callable[..., Any], args: Any, kwargs: Any, tensors: list[Tensor]
) -> tuple[list[float] | None, float]:
    """E[g_in^2] / E[g_out^2] of this one call for each of `tensors`, by a random cotangent; None if not to be had.

    And by how much ln of it changes for a cotangent that is even along an axis: mixing over tokens passes on all of a
    gradient that they share, and little of one that differs from token to token. Under `LEAST_SPREAD` it is sampling.
    """
    if any(tensor.is_meta for tensor in tensors):
        return None, 0.0
    fresh = {id(tensor): tensor.detach().clone().requires_grad_() for tensor in tensors}
    copies = {key: copy.clone() for key, copy in fresh.items()}  # an in-place function may write on these
    try:
        with torch.enable_grad():
            result = function(*swap(args, copies), **swap(kwargs or {}, copies))
        outputs = [tensor for tensor in tensors_in(result) if tensor.requires_grad]
        axes: list[int | None] = [None, *range(outputs[0].dim() - 1)]
        growths = [_growths(outputs, list(fresh.values()), axis) for axis in axes]
    except (IndexError, RuntimeError, TypeError, ValueError):
        return None, 0.0
    pairs = [(a, b) for other in growths[1:] for a, b in zip(growths[0], other, strict=True) if a > 0 and b > 0]
    spread = max((math.log(b / a) for a, b in pairs), key=abs, default=0.0)
    return growths[0], spread if abs(spread) > LEAST_SPREAD else 0.0


def _growths(outputs: list[Tensor], inputs: list[Tensor], even_along: int | None) -> list[float]:
    probes = [torch.randn_like(output) for output in outputs]
    if even_along is not None:
        probes = [p.narrow(even_along, 0, 1).expand_as(p) if p.dim() > even_along else p for p in probes]
    found: Any = torch.autograd.grad(outputs, inputs, probes, allow_unused=True, retain_graph=True)
    return [0.0 if g is None else float(g.double().square().mean()) for g in found]


def local_profile(
    function: Callable[..., Any], args: Any, kwargs: Any, tensor: Tensor, axis: int
) -> list[list[float]] | None:
    """Where along `axis` of `tensor` a random cotangent of this one call ends: covariance [places, lags], of mean 1."""
    fresh = torch.randn(tensor.shape, dtype=tensor.dtype, device="cpu" if tensor.is_meta else tensor.device)
    copy = fresh.requires_grad_().clone()
    try:
        with torch.enable_grad():
            result = function(*swap(args, {id(tensor): copy}), **swap(kwargs or {}, {id(tensor): copy}))
        outputs = [output for output in tensors_in(result) if output.requires_grad]
        (found,) = torch.autograd.grad(outputs, fresh, [torch.randn_like(output) for output in outputs])
    except (RuntimeError, TypeError, ValueError):
        return None
    places = found.double().movedim(axis, 0).flatten(1)
    size = places.shape[0]
    covariance = torch.zeros(size, min(size, MOST_LAGS), dtype=torch.float64)
    for lag in range(covariance.shape[1]):
        covariance[: size - lag, lag] = (places[: size - lag] * places[lag:]).mean(1).cpu()
    mean = float(covariance[:, 0].mean())
    return (covariance / mean).tolist() if mean > 0 else None


def swap(value: Any, copies: dict[int, Tensor]) -> Any:
    """A nested argument with the tensors of these ids replaced."""
    if isinstance(value, Tensor):
        return copies.get(id(value), value)
    if isinstance(value, dict):
        return {key: swap(item, copies) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(swap(item, copies) for item in value)
    return value
