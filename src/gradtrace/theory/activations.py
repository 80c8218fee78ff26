"""What does an activation do to the signal and to its gradient, and which weight variance keeps either as it is?

With pre-activations z ~ N(0, q) (wide layers, before training) a layer multiplies the mean squared gradient by
chi = sigma_w^2 E[a'(z)^2] and sets the next variance to q = sigma_w^2 E[a(z)^2] + sigma_b^2. Both are held by

    sigma_w^2 = 1 / E[a'^2]    (gradient: chi = 1),        sigma_b^2 = q - sigma_w^2 E[a^2]    (signal),

the critical triple (sigma_w^2, sigma_b^2, q*); sigma_w^2 = fan_in Var(w).

Source: Poole et al., Exponential expressivity (2016), eq. 3-4; Schoenholz et al., Deep information propagation (2017),
section 3; He et al., Delving deep into rectifiers (2015), section 2.2 for the gains.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gradtrace.theory.gaussian import Array, expectation, expectations
from gradtrace.theory.nonlinearities import Nonlinearity

FAR = 1e6
"""Where a' counts as being at infinity."""
TINY = 1e-30
"""Variance that stands for the limit q -> 0, where a' may differ on the two sides of a kink at 0."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Expectations over z ~ N(0, q)."""

    q: float
    mean: float
    """E[a]."""
    second: float
    """E[a^2]."""
    slope: float
    """E[a']."""
    slope_second: float
    """E[a'^2]: what the activation multiplies the mean squared gradient by."""
    slope_fourth: float
    """E[a'^4]: how much that varies from unit to unit."""

    @property
    def variance(self) -> float:
        """Var[a] = E[a^2] - E[a]^2."""
        return max(self.second - self.mean**2, 0.0)


@lru_cache(maxsize=65536)
def moments(activation: Nonlinearity, q: float = 1.0) -> Moments:
    """E[a], E[a^2], E[a'], E[a'^2], E[a'^4] for z ~ N(0, q), to about 1e-12; q = 0 is the limit.

    >>> from gradtrace.theory.nonlinearities import nonlinearity
    >>> round(moments(nonlinearity("sigmoid")).slope_second, 6)
    0.044836

    Raises:
        ValueError: the function is not finite where N(0, q) has its mass.
    """

    def powers(x: Array) -> Array:
        a, a_prime = activation.a(x), activation.a_prime(x)
        return np.stack((a, a**2, a_prime, a_prime**2, a_prime**4))

    found = expectations(powers, max(q, TINY), activation.kinks)
    if q == 0.0:
        at_zero = float(activation.a(np.zeros(1))[0])
        found[:2] = at_zero, at_zero**2
    return Moments(q, *found.tolist())


def signal_slope(activation: Nonlinearity, q: float) -> float:
    """The slope d E[a^2] / dq = E[z a a'] / q, by Gaussian integration by parts."""
    a, a_prime, q = activation.a, activation.a_prime, max(q, TINY)
    return expectation(lambda x: x * a(x) * a_prime(x), q, activation.kinks) / q


def _grid(activation: Nonlinearity) -> Array:
    wide = np.geomspace(1e-3, FAR, 2000)
    fine = np.linspace(-30, 30, 60001)
    sides = [np.nextafter(kink, side) for kink in activation.kinks for side in (-math.inf, math.inf)]
    return np.unique(np.concatenate((-wide, fine, wide, np.array(sides))))


@lru_cache(maxsize=1024)
def max_slope(activation: Nonlinearity) -> tuple[float, float]:
    """(sup |a'|, a point where it is attained or approached); (inf, the end) where a' is unbounded.

    >>> from gradtrace.theory.nonlinearities import nonlinearity
    >>> [round(value, 6) for value in max_slope(nonlinearity("gelu"))]
    [1.128904, 1.414214]
    """
    x = _grid(activation)
    with np.errstate(over="ignore", invalid="ignore"):
        size = np.abs(activation.a_prime(x))
    size = np.where(np.isnan(size), np.inf, size)
    best = int(np.argmax(size))
    inner = float(size[np.abs(x) <= 30].max())
    if size[best] > 10 * inner:
        return math.inf, float(math.copysign(math.inf, x[best]))
    ties = np.flatnonzero(size == size[best])
    best = int(ties[np.argmin(np.abs(x[ties]))])  # of a plateau, the point nearest zero
    low, high = float(x[max(best - 1, 0)]), float(x[min(best + 1, len(x) - 1)])
    for _ in range(100):  # golden section
        step = (high - low) * (math.sqrt(5) - 1) / 2
        left, right = high - step, low + step
        values = np.abs(activation.a_prime(np.array([left, right])))
        low, high = (low, right) if values[0] >= values[1] else (left, high)
    where = (low + high) / 2
    value = float(np.abs(activation.a_prime(np.array([where])))[0])
    value, where = (value, where) if value > size[best] else (float(size[best]), float(x[best]))
    beside = [kink for kink in activation.kinks if abs(kink - where) <= 1e-9 * max(1.0, abs(kink))]
    return value, beside[0] if beside else where


def saturation(activation: Nonlinearity, frac: float = 0.05) -> tuple[float, float]:
    """(lower, upper): outside of them |a'| stays under `frac` of its maximum; +-inf where it never does.

    >>> from gradtrace.theory.nonlinearities import nonlinearity
    >>> [round(x, 3) for x in saturation(nonlinearity("sigmoid"))], saturation(nonlinearity("relu"))[1]
    ([-4.357, 4.357], inf)
    """
    largest, _ = max_slope(activation)
    if math.isinf(largest):
        return -math.inf, math.inf
    x = _grid(activation)

    def steep(at: Array) -> Array:
        return np.asarray(np.abs(activation.a_prime(at)) >= frac * largest)

    where = np.flatnonzero(steep(x))
    first, last = int(where[0]), int(where[-1])
    lower = -math.inf if first == 0 else _bisect(steep, float(x[first]), float(x[first - 1]))
    upper = math.inf if last == len(x) - 1 else _bisect(steep, float(x[last]), float(x[last + 1]))
    return lower, upper


def _bisect(steep: Callable[[Array], Array], inside: float, outside: float) -> float:
    for _ in range(80):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if steep(np.array([middle]))[0] else (inside, middle)
    return inside


def forward_gain(activation: Nonlinearity, q: float = 1.0) -> float:
    """The gain g of Var(w) = g^2 / fan_in that keeps E[z^2] = q: sqrt(q / E[a^2]).

    >>> from gradtrace.theory.nonlinearities import nonlinearity
    >>> round(forward_gain(nonlinearity("relu")), 6), round(forward_gain(nonlinearity("tanh")), 6)
    (1.414214, 1.592537)
    """
    return math.sqrt(q / _positive(moments(activation, q).second, activation, "E[a^2]"))


def backward_gain(activation: Nonlinearity, q: float = 1.0) -> float:
    """The gain g of Var(w) = g^2 / fan_out that keeps E[g^2]: 1 / sqrt(E[a'^2]).

    >>> from gradtrace.theory.nonlinearities import nonlinearity
    >>> round(backward_gain(nonlinearity("gelu")), 4)
    1.4811
    """
    return 1 / math.sqrt(_positive(moments(activation, q).slope_second, activation, "E[a'^2]"))


def _positive(value: float, activation: Nonlinearity, name: str) -> float:
    if value <= 0.0:
        raise ValueError(f"{activation.name} has {name} = 0: no gain preserves the variance")
    return value


@dataclass(frozen=True, slots=True)
class Critical:
    """Where chi = 1 and q* is a fixed point."""

    sigma_w2: float
    sigma_b2: float
    q_star: float


def critical_at(activation: Nonlinearity, q: float) -> Critical:
    """The point of the critical curve whose fixed point is `q`; its sigma_b^2 < 0 says that none has it.

    >>> from gradtrace.theory.nonlinearities import nonlinearity
    >>> critical_at(nonlinearity("relu"), 1.0)
    Critical(sigma_w2=2.0, sigma_b2=0.0, q_star=1.0)
    """
    at = moments(activation, q)
    sigma_w2 = 1 / _positive(at.slope_second, activation, "E[a'^2]")
    sigma_b2 = q - sigma_w2 * at.second
    return Critical(sigma_w2, sigma_b2 if abs(sigma_b2) > 1e-12 * q else 0.0, q)  # the moments' accuracy


def critical(activation: Nonlinearity, sigma_b2: float = 0.0) -> Critical | None:
    """The critical point with this bias variance: the smallest q* > 0, or the limit q* -> 0; None where there is none.

    Positively homogeneous functions (ReLU) are critical at sigma_b^2 = 0 for every q: the answer has q* = 1.

    >>> from gradtrace.theory.nonlinearities import nonlinearity
    >>> tanh = critical(nonlinearity("tanh"), 0.05)
    >>> round(tanh.sigma_w2, 5), round(tanh.q_star, 5)
    (1.76095, 0.57005)
    """
    grid = np.geomspace(1e-8, 1e4, 121)
    excess = np.array([_excess(activation, float(q)) for q in grid]) - sigma_b2
    level = np.abs(excess) <= 1e-10 * grid
    if level.all():
        return critical_at(activation, 1.0)
    crossings = np.flatnonzero(np.sign(excess[1:]) * np.sign(excess[:-1]) < 0)
    crossings = crossings[~(level[crossings] | level[crossings + 1])]
    if not crossings.size:
        in_the_limit = abs(excess[0]) <= 1e-6 * grid[0]
        return Critical(critical_at(activation, 1e-12).sigma_w2, 0.0, 0.0) if in_the_limit else None
    low, high = float(grid[crossings[0]]), float(grid[crossings[0] + 1])
    rising = bool(excess[crossings[0]] < 0)
    while high / low - 1 > 1e-13:
        middle = math.sqrt(low * high)
        if middle in (low, high):
            break
        below = (_excess(activation, middle) < sigma_b2) == rising
        low, high = (middle, high) if below else (low, middle)
    return Critical(critical_at(activation, low).sigma_w2, sigma_b2, low)


def _excess(activation: Nonlinearity, q: float) -> float:
    """The sigma_b^2 that goes with q on the critical curve; NaN where the function has no gain or no finite moments."""
    try:
        return critical_at(activation, q).sigma_b2
    except ValueError:
        return math.nan
