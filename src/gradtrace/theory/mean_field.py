"""How do variance, correlation and gradient travel through a deep network at initialisation, and how deep can it be?

In wide layers with Var(w) = sigma_w^2 / fan_in and Var(b) = sigma_b^2 pre-activations are Gaussian. Layer by layer

    q -> sigma_w^2 E[a(z)^2] + sigma_b^2,                         z ~ N(0, q)            (one sample: variance)
    c -> (sigma_w^2 E[a(z1) a(z2)] + sigma_b^2) / q*,             corr(z1, z2) = c       (two samples: correlation)
    E[g^2] -> chi E[g^2],   chi = sigma_w^2 E[a'(z)^2]                                   (backward, towards the input)

with fixed points q*, c*. Deviations from them die out as exp(-depth / xi): 1/xi_q = -ln(dq'/dq), 1/xi_c = -ln(dc'/dc).
chi < 1 is the ordered phase (gradients vanish, all samples become one vector), chi > 1 the chaotic one (gradients
explode, near samples part); a network trains to a depth of about 6 |xi_c|.

Source: Poole et al. (2016), eq. 3-7; Schoenholz et al., Deep information propagation (2017), eq. 3-9 and section 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gradtrace.theory.activations import critical_at, moments, signal_slope
from gradtrace.theory.gaussian import pair_expectation
from gradtrace.theory.nonlinearities import Nonlinearity

TRAINABLE_DEPTHS = 6.0
"""Trainable depth in units of xi_c, as measured by Schoenholz et al. (2017), figure 5."""


def variance_map(activation: Nonlinearity, sigma_w2: float, sigma_b2: float, q: float) -> float:
    """The next layer's pre-activation variance: sigma_w^2 E[a^2] + sigma_b^2.

    >>> from gradtrace.theory.nonlinearities import nonlinearity
    >>> round(variance_map(nonlinearity("relu"), 2.0, 0.1, 3.0), 9)
    3.1
    """
    return sigma_w2 * moments(activation, q).second + sigma_b2


def correlation_map(activation: Nonlinearity, sigma_w2: float, sigma_b2: float, q: float, c: float) -> float:
    """The next layer's correlation of two samples whose pre-activations have variance `q` and correlation `c`.

    >>> from gradtrace.theory.nonlinearities import nonlinearity
    >>> round(correlation_map(nonlinearity("relu"), 2.0, 0.0, 1.0, 0.0), 6)  # 1 / pi: Cho & Saul (2009)
    0.31831
    """
    together = sigma_w2 * _overlap(activation, q, c) + sigma_b2
    return min(1.0, together / variance_map(activation, sigma_w2, sigma_b2, q))


@lru_cache(maxsize=65536)
def _overlap(activation: Nonlinearity, q: float, c: float) -> float:
    return pair_expectation(activation.a, activation.a, q, c, activation.kinks)


def chi(activation: Nonlinearity, sigma_w2: float, q: float, c: float = 1.0) -> float:
    """sigma_w^2 E[a'(z1) a'(z2)]; at c = 1 the growth of E[g^2] per layer, towards the input.

    >>> from gradtrace.theory.nonlinearities import nonlinearity
    >>> chi(nonlinearity("relu"), 1 / 3, 1.0)  # PyTorch's default nn.Linear
    0.16666666666666666
    """
    if c == 1.0:
        return sigma_w2 * moments(activation, q).slope_second
    return sigma_w2 * pair_expectation(activation.a_prime, activation.a_prime, q, c, activation.kinks)


def fixed_variance(activation: Nonlinearity, sigma_w2: float, sigma_b2: float, q: float = 1.0) -> float:
    """q*: where the variance ends up, starting from `q`; 0 where it dies out, inf where it grows without bound.

    The map is increasing, so the variance moves monotonically to the nearest fixed point in its direction.

    >>> from gradtrace.theory.nonlinearities import nonlinearity
    >>> round(fixed_variance(nonlinearity("tanh"), 1.76095, 0.05), 4)
    0.57
    """

    def drift(at: float) -> float:
        change = variance_map(activation, sigma_w2, sigma_b2, at) - at
        return 0.0 if abs(change) <= 1e-13 * at else change

    start = drift(q)
    if start == 0.0:
        return q
    factor, near, far = (1.25 if start > 0 else 0.8), q, q
    while (drift(far) > 0) == (start > 0) and drift(far) != 0.0:
        near, far = far, far * factor
        if far < 1e-12:
            return sigma_b2 if sigma_b2 > 0 else 0.0
        if far > 1e12:
            return math.inf
    while abs(far / near - 1) > 1e-14:
        middle = math.sqrt(near * far)
        if middle in (near, far):
            break
        near, far = (middle, far) if (drift(middle) > 0) == (start > 0) and drift(middle) != 0.0 else (near, middle)
    return far


def fixed_correlation(activation: Nonlinearity, sigma_w2: float, sigma_b2: float, q_star: float) -> float:
    """c*: the correlation that any two samples end up with; 1 in the ordered phase, below it in the chaotic one.

    >>> from gradtrace.theory.nonlinearities import nonlinearity
    >>> fixed_correlation(nonlinearity("relu"), 1 / 3, 0.01, 0.012)
    1.0
    """
    if q_star == 0.0 or chi(activation, sigma_w2, q_star) <= 1.0 + 1e-9:
        return 1.0

    def drift(c: float) -> float:
        return (sigma_w2 * _overlap(activation, q_star, c) + sigma_b2) / q_star - c

    low, high = 0.0, 1.0 - 1e-6
    if drift(low) <= 1e-12:
        return 0.0
    if drift(high) >= 0.0:
        return 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if drift(middle) > 0 else (low, middle)
        if high - low < 1e-10:
            break
    return (low + high) / 2


def depth_scale(rate: float) -> float:
    """Layers over which a deviation that is multiplied by `rate` per layer changes by e: 1 / |ln rate|.

    >>> depth_scale(1.0), round(depth_scale(0.880164), 3)
    (inf, 7.834)
    """
    if rate <= 0.0:
        return 0.0
    return math.inf if rate == 1.0 else 1 / abs(math.log(rate))


@dataclass(frozen=True, slots=True)
class MeanField:
    """The fate of signal and gradient in a deep network of one kind of layer."""

    sigma_w2: float
    sigma_b2: float
    q_star: float
    c_star: float
    chi: float
    """Growth of E[g^2] per layer at q*, towards the input; its square root is the RMS gain."""
    xi_q: float
    """Layers over which the variance forgets where it started."""
    xi_c: float
    """Layers over which two samples forget how they differed."""

    @property
    def phase(self) -> str:
        """'ordered' (chi < 1), 'critical' or 'chaotic' (chi > 1); critical means that chi is within 1e-6 of 1."""
        return "critical" if abs(self.chi - 1) < 1e-6 else ("ordered" if self.chi < 1 else "chaotic")

    @property
    def gradient_depth(self) -> float:
        """Layers over which E[g^2] changes by e: 1 / |ln chi|."""
        return depth_scale(self.chi)

    @property
    def trainable_depth(self) -> float:
        """About 6 |xi_c| layers."""
        return TRAINABLE_DEPTHS * self.xi_c

    def depth_of_loss(self, ratio: float = 1e-3) -> float:
        """Layers after which the RMS gradient has changed to `ratio` or 1 / `ratio`: 2 |ln ratio| / |ln chi|."""
        return 2 * abs(math.log(ratio)) * self.gradient_depth


def mean_field(activation: Nonlinearity, sigma_w2: float, sigma_b2: float, q: float = 1.0) -> MeanField:
    """Fixed points, growth and depth scales for this activation and initialisation; inputs have variance `q`.

    >>> from gradtrace.theory.nonlinearities import nonlinearity
    >>> tanh = mean_field(nonlinearity("tanh"), 1.3, 0.05)
    >>> round(tanh.chi, 6), round(tanh.xi_c, 3), tanh.phase
    (0.880164, 7.834, 'ordered')
    """
    q_star = fixed_variance(activation, sigma_w2, sigma_b2, q)
    if math.isinf(q_star):
        growth = chi(activation, sigma_w2, 1e12)
        return MeanField(sigma_w2, sigma_b2, q_star, math.nan, growth, math.inf, depth_scale(growth))
    c_star = fixed_correlation(activation, sigma_w2, sigma_b2, q_star)
    growth = chi(activation, sigma_w2, q_star)
    rate_c = growth if c_star == 1.0 else chi(activation, sigma_w2, q_star, c_star)
    xi_q = depth_scale(sigma_w2 * signal_slope(activation, q_star))
    return MeanField(sigma_w2, sigma_b2, q_star, c_star, growth, xi_q, depth_scale(rate_c))


def trajectory(
    activation: Nonlinearity, sigma_w2: float, sigma_b2: float, depth: int, q: float = 1.0, c: float = 0.0
) -> list[tuple[float, float, float]]:
    """(q, c, chi) of each of `depth` layers; the first has pre-activations of variance `q` and correlation `c`.

    >>> from gradtrace.theory.nonlinearities import nonlinearity
    >>> layers = trajectory(nonlinearity("relu"), 1 / 3, 1 / (3 * 512), 20)
    >>> [f"{x:.4g}" for x in layers[-1]]  # the plateau that looks healthy, while all samples become one vector
    ['0.0007813', '1', '0.1667']
    """
    layers = []
    for _ in range(depth):
        layers.append((q, c, chi(activation, sigma_w2, q)))
        if q > 0:
            c = correlation_map(activation, sigma_w2, sigma_b2, q, c)
        q = variance_map(activation, sigma_w2, sigma_b2, q)
    return layers


def critical_curve(activation: Nonlinearity, q: list[float] | None = None) -> list[tuple[float, float, float]]:
    """(sigma_w^2, sigma_b^2, q*) along chi = 1, for every `q` (default 1e-4 to 10) that a sigma_b^2 >= 0 belongs to.

    >>> from gradtrace.theory.nonlinearities import nonlinearity
    >>> [(round(w, 3), round(b, 3)) for w, b, _ in critical_curve(nonlinearity("tanh"), [0.1, 0.57, 2.0])]
    [(1.178, 0.001), (1.761, 0.05), (2.861, 0.512)]
    """
    grid = [float(x) for x in np.geomspace(1e-4, 10, 60)] if q is None else q
    points = [critical_at(activation, x) for x in grid]
    return [(point.sigma_w2, max(point.sigma_b2, 0.0), point.q_star) for point in points if point.sigma_b2 >= -1e-12]
