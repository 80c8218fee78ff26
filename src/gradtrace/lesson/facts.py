"""What does theory say of each activation of the lesson? Every number of its sentences that was not measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from gradtrace.theory.activations import backward_gain, critical, max_slope, moments, saturation
from gradtrace.theory.mean_field import chi, fixed_variance
from gradtrace.theory.nonlinearities import nonlinearity

NAMES = {
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "relu": "ReLU",
    "leaky_relu": "leaky ReLU",
    "gelu": "GELU",
    "silu": "SiLU",
    "identity": "none (linear)",
}
"""The activations of the page, in the order of its menus."""

SATURATED_FRAC = 0.05
"""A unit is saturated where a' is under this part of its maximum, as in gradtrace's traces."""
THOUSANDTH = 1e-3
PYTORCH_SIGMA_W = math.sqrt(1 / 3)
"""`nn.Linear` draws from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), whose variance is 1 / (3 fan_in)."""


@dataclass(frozen=True, slots=True)
class ActivationFacts:
    """One activation function a."""

    key: str
    name: str
    most: float
    """max |a'|."""
    at: float
    """Where it is reached, the point nearest to zero."""
    low: float
    """Below, it is saturated."""
    high: float
    """Above, it is saturated."""
    slope_second: float
    """E[a'^2] for z ~ N(0, 1)."""
    critical: float
    """The weight scale sigma_w at which a deep stack without biases keeps the gradient (chi = 1)."""
    rule: float
    """The weight scale that the lesson gives it: critical, or for GELU and SiLU, which have none that is stable, the
    one that keeps the gradient at pre-activations of variance 1."""

    @property
    def layers_to_thousandth(self) -> float:
        """Layers, each with the largest slope there is, that leave a thousandth; inf where max |a'| >= 1."""
        return math.ceil(math.log(THOUSANDTH) / math.log(self.most)) if self.most < 1 else math.inf

    def gain(self, sigma_w: float) -> float:
        """What one deep layer does to the gradient: sqrt(chi) where the signal has settled.

        >>> facts("sigmoid").gain(4.0) < 1 < facts("sigmoid").gain(11.0)
        True
        """
        function = nonlinearity(self.key)
        settled = fixed_variance(function, sigma_w**2, 0.0)
        return math.sqrt(chi(function, sigma_w**2, min(settled, 1e12)))


@cache
def facts(key: str) -> ActivationFacts:
    """The facts of one activation.

    >>> sigmoid = facts("sigmoid")
    >>> sigmoid.most, sigmoid.layers_to_thousandth, round(sigmoid.critical, 2)
    (0.25, 5, 10.15)
    """
    function = nonlinearity(key)
    most, at = max_slope(function)
    low, high = (0.0 if abs(end) < 1e-300 else end for end in saturation(function, SATURATED_FRAC))
    found = critical(function)
    sigma_w = math.sqrt(found.sigma_w2) if found is not None else math.nan
    rule = sigma_w if most <= 1 else backward_gain(function)
    return ActivationFacts(key, NAMES[key], most, at, low, high, moments(function).slope_second, sigma_w, three(rule))


def three(value: float) -> float:
    """To four significant digits: a weight scale that can be said, typed and set again exactly.

    >>> three(2**0.5)
    1.414
    """
    return float(f"{value:.4g}")
