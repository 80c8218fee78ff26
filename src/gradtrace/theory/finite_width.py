"""How far may one network's gradient lie from the wide-layer prediction? Mean and variance of its log.

In one layer of finite width, |g_in|^2 = |W^T D g|^2 with D = diag(a') varies around its mean with relative variance

    beta / n  =  2 / fan_in  +  3 (E[a'^4] / E[a'^2]^2 - 1) / fan_out

(the first from the Gaussian weights, a chi-squared of fan_in terms; the second from which a' the units happen to have,
3 being the kurtosis of a Gaussian gradient). Layers multiply, so that ln |g|^2 is close to normal with

    mean  =  sum of ln growth - 1/2 sum of ln(1 + beta / n),        variance  =  sum of ln(1 + beta / n):

a typical network lies below the mean of all. For critical ReLU beta = 5 and E|g|^4 / (E|g|^2)^2 = (1 + 5 / n)^L.

Source: Hanin, Which neural net architectures give rise to exploding and vanishing gradients? (2018); Hanin & Nica,
Products of many large random matrices and gradients in deep neural networks (2018), theorem 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from gradtrace.theory.activations import moments
from gradtrace.theory.nonlinearities import Nonlinearity

_DECADES = 1 / (2 * math.log(10))
"""From ln |g|^2 to log10 |g|."""


def relative_variance(activation: Nonlinearity, fan_in: int, fan_out: int, q: float = 1.0) -> float:
    """The relative variance beta / n of one layer.

    >>> from gradtrace.theory.nonlinearities import nonlinearity
    >>> round((1 + relative_variance(nonlinearity("relu"), 50, 50)) ** 10, 3)  # E|g|^4 / (E|g|^2)^2 after ten layers
    2.594
    """
    at = moments(activation, q)
    if at.slope_second == 0.0:
        return math.inf
    return 2 / fan_in + 3 * (at.slope_fourth / at.slope_second**2 - 1) / fan_out


def spread_of_powers(num_steps: float, width: int) -> float:
    """Standard deviation of ln |W^t|^2 for one Gaussian W that is used t times: min(t^2 / 2n, 3 t / 4 sqrt(n)).

    Independent matrices would leave next to none. Few powers see the fluctuations of W's moments (t^2 / 2n, to leading
    order), many its spectral radius, which lies off 1 by a multiple of 1 / sqrt(n); both as sampled for n = 32 to 200,
    from above.

    >>> round(spread_of_powers(5, 100), 3), round(spread_of_powers(50, 100), 2)
    (0.125, 3.75)
    """
    return min(num_steps**2 / (2 * width), 0.75 * num_steps / math.sqrt(width))


@dataclass(frozen=True, slots=True)
class LogGradient:
    """Distribution of log10 of the RMS gradient's change over some layers, across random initialisations."""

    mean_decades: float
    """Of a typical network (the median)."""
    std_decades: float
    expected_decades: float
    """log10 of the root of the mean of the square over networks: the wide-layer prediction."""

    def interval(self, z: float = 1.96) -> tuple[float, float]:
        """(low, high) in decades; z = 1.96 holds 95 % of networks."""
        return self.mean_decades - z * self.std_decades, self.mean_decades + z * self.std_decades


def log_gradient(growths: Iterable[float], relative_variances: Iterable[float]) -> LogGradient:
    """Combine the layers' growths of E[g^2] and their relative variances.

    >>> he = log_gradient([1.0] * 50, [5 / 100] * 50)  # 50 critical ReLU layers of width 100
    >>> round(he.mean_decades, 2), round(he.std_decades, 2), he.expected_decades
    (-0.26, 0.34, 0.0)

    Raises:
        ValueError: a growth is not positive.
    """
    growths = list(growths)
    for growth in growths:
        if not growth > 0.0:
            raise ValueError(f"a layer's growth must be positive, got {growth}: it passes no gradient")
    expected = sum(math.log(growth) for growth in growths)
    spread = sum(math.log1p(variance) for variance in relative_variances)
    return LogGradient((expected - spread / 2) * _DECADES, math.sqrt(spread) * _DECADES, expected * _DECADES)
