"""Which weight and bias variance does an activation need? The point of its critical curve at q = 1, or the centred one.

    sigma_w^2 = 1 / E[a'^2],      sigma_b^2 = q - sigma_w^2 E[a^2]          (theory.activations.critical_at)

Where sigma_b^2 < 0 (sigmoid: the mean of a is most of it) no random bias keeps the signal. A bias that takes the mean
out, b = -E[a] W 1, leaves z = W (a - E[a]) and needs only sigma_b^2 = q - sigma_w^2 Var[a] >= 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.theory.activations import moments

if TYPE_CHECKING:
    from gradtrace.theory.nonlinearities import Nonlinearity


@dataclass(frozen=True, slots=True)
class Point:
    """Where an activation is critical."""

    q: float
    sigma_w2: float
    sigma_b2: float
    centred: bool
    """The next layer's bias takes the mean of the activation out."""
    kept: bool
    """The signal is kept as well as the gradient."""


def critical_point(activation: Nonlinearity | None) -> Point:
    """The point at q = 1; no activation: sigma_w^2 = 1.

    >>> from gradtrace.theory.nonlinearities import nonlinearity
    >>> [round(critical_point(nonlinearity(name)).sigma_w2, 3) for name in ("relu", "gelu", "tanh", "sigmoid")]
    [2.0, 2.194, 2.153, 22.303]

    Raises:
        ValueError: a' is zero everywhere: no gain passes a gradient.
    """
    if activation is None:
        return Point(1.0, 1.0, 0.0, False, True)
    at = moments(activation, 1.0)
    if at.slope_second <= 0:
        raise ValueError(f"{activation.name} has E[a'^2] = 0: no gain passes a gradient")
    sigma_w2 = 1 / at.slope_second
    plain, centred = 1 - sigma_w2 * at.second, 1 - sigma_w2 * at.variance
    if plain >= -1e-9:
        return Point(1.0, sigma_w2, max(plain, 0.0), False, True)
    return Point(1.0, sigma_w2, max(centred, 0.0), True, centred >= -1e-9)
