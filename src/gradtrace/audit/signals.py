"""What does the forward theory know of a tensor? Second moment, mean, and overlap between two samples.

    second  = E[x^2],      mean = E[x] over units,      overlap = E[x x'] of two samples, same unit

Their ratio overlap / second is the between-sample correlation: at 1, all samples have become one vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from gradtrace.theory.activations import moments, signal_slope
from gradtrace.theory.gaussian import Array, expectations
from gradtrace.theory.nonlinearities import Nonlinearity, normal_cdf

if TYPE_CHECKING:
    from torch import Tensor

    from gradtrace.theory.recurrence import Units


@dataclass(frozen=True, slots=True)
class Signal:
    """Moments of one tensor of the forward pass."""

    second: float = 1.0
    mean: float = 0.0
    overlap: float = 0.0
    features: int = 1
    """Units that the weights mix (channels or the last axis)."""
    log_variance: float = 0.0
    """Variance of ln(second) across networks."""
    sample_variance: float = 0.0
    """Variance of ln(second) across samples of one network, that of the networks included."""
    centred: tuple[float, float] | None = None
    """Both variances for E[x^2] - E[x]^2 in place of E[x^2]; None: as those."""
    places: tuple[Array, ...] = ()
    """Relative E[x^2] along each spatial axis, of mean 1: less at a border of zeros; (): even."""
    units: tuple[Units, Units] | None = None
    """Of the state of a recurrent cell: moments per class of units, of one sample and of what two samples share."""

    @property
    def variance(self) -> float:
        """E[x^2] - E[x]^2 over units."""
        return max(self.second - self.mean**2, 0.0)

    @property
    def inverse_bias(self) -> float:
        """E[1 / second of a sample] times E[second]: exp of the variance between samples (log-normal)."""
        return math.exp(min(max(self.sample_variance - self.log_variance, 0.0), 2.0))

    @property
    def correlation(self) -> float:
        """Overlap over second, in [-1, 1]."""
        return max(-1.0, min(1.0, self.overlap / self.second)) if self.second > 0 else math.nan

    def scaled(self, factor: float) -> Signal:
        """Of `factor` times the tensor."""
        return replace(
            self, second=self.second * factor**2, mean=self.mean * factor, overlap=self.overlap * factor**2, units=None
        )


def observed(tensor: Tensor, batch_size: int) -> Signal:
    """The moments that a tensor has; on the meta device those of unit Gaussian noise."""
    features = int(tensor.shape[1] if tensor.dim() >= 4 else tensor.shape[-1]) if tensor.dim() > 1 else 1
    if tensor.is_meta or not tensor.numel():
        return Signal(features=features)
    x = tensor.detach().double() if tensor.numel() < 1 << 20 else tensor.detach().float()
    second, mean = torch.stack((x.square().mean(), x.mean())).tolist()
    overlap = math.nan
    if x.dim() and x.shape[0] == batch_size > 1:
        total = float(x.sum(0).square().sum())
        overlap = (total / x.numel() - second) / (batch_size - 1)
    return Signal(second, mean, overlap if math.isfinite(overlap) else 0.0, features)


_NODES = np.linspace(-6.0, 6.0, 97)
_WEIGHTS = np.exp(-0.5 * _NODES**2) / np.exp(-0.5 * _NODES**2).sum()


@lru_cache(maxsize=4096)
def overlap(activation: Nonlinearity, q: float, c: float) -> float:
    """E[a(z1) a(z2)] for N(0, q) with correlation c, to about 1e-3: the trapezoid rule on a plane (fast, for a table).

    >>> from gradtrace.theory.nonlinearities import nonlinearity
    >>> round(overlap(nonlinearity("relu"), 1.0, 0.0), 3)  # 1 / 2 pi
    0.159
    """
    if c > 1 - 1e-3:  # d overlap / dc = q E[a' a'], at c = 1
        at = moments(activation, q)
        return at.second - (1 - c) * q * at.slope_second
    first = math.sqrt(q) * _NODES
    other = c * first[:, None] + math.sqrt(q * (1 - c * c)) * _NODES
    return float(_WEIGHTS * activation.a(first) @ (activation.a(other.ravel()).reshape(other.shape) @ _WEIGHTS))


def steepness_of_largest(activation: Nonlinearity, q: float, count: int) -> float:
    """E[a'(z)^2] of the largest of `count` independent z ~ N(0, q).

    >>> from gradtrace.theory.nonlinearities import nonlinearity
    >>> round(steepness_of_largest(nonlinearity("relu"), 1.0, 4), 2)  # 1 - 1 / 16
    0.94
    """
    edges = np.linspace(-8.0, 8.0, 1601)
    middles = (edges[1:] + edges[:-1]) / 2
    return float(np.diff(normal_cdf(edges) ** count) @ activation.a_prime(math.sqrt(q) * middles) ** 2)


@lru_cache(maxsize=1024)
def _shifted(activation: Nonlinearity, mean: float) -> Nonlinearity:
    return Nonlinearity(
        activation.name,
        lambda x: activation.a(x + mean),
        lambda x: activation.a_prime(x + mean),
        tuple(kink - mean for kink in activation.kinks),
    )


@dataclass(frozen=True, slots=True)
class _Scatter:
    """How an activation's outputs and slopes vary from unit to unit."""

    kurtosis: float
    """E[a^4] / E[a^2]^2 - 1: 5 for ReLU."""
    centred: float
    """The same of a less its mean."""
    slopes: tuple[float, float]
    """E[a']^2 and E[a' z]^2 / q, over E[a'^2]."""


@lru_cache(maxsize=4096)
def _scatter(activation: Nonlinearity, q: float) -> _Scatter:
    at = moments(activation, q)

    def powers(x: Array) -> Array:
        a = activation.a(x)
        return np.stack((a**4, (a - at.mean) ** 4, x * activation.a_prime(x)))

    fourth, own, slanted = expectations(powers, q, activation.kinks, rtol=1e-4).tolist()
    steep = at.slope_second if at.slope_second > 0 else math.inf
    return _Scatter(
        fourth / at.second**2 - 1 if at.second > 0 else 0.0,
        own / at.variance**2 - 1 if at.variance > 0 else 0.0,
        (at.slope**2 / steep, slanted**2 / q / steep if q > 0 else 0.0),
    )


_STEP = 0.1
"""Relative step in q of the differences."""


@dataclass(frozen=True, slots=True)
class Passage:
    """What an activation does to a signal and to the gradient."""

    signal: Signal
    growth: float
    """E[a'^2]."""
    relative_variance: float
    """E[a'^4] / E[a'^2]^2 - 1: from unit to unit."""
    sensitivity: float
    """d ln growth / d ln q."""
    slopes: tuple[float, float]
    """E[a']^2 and E[a' z]^2 / q, over E[a'^2]."""


def activate(activation: Nonlinearity, signal: Signal, num_samples: float) -> Passage:
    """Pass a signal with Gaussian entries through an elementwise function."""
    if abs(signal.mean) > 0.02 * math.sqrt(signal.second):
        activation = _shifted(activation, float(f"{signal.mean:.4g}"))
    q = signal.variance
    at, near, far = (moments(activation, q * factor) for factor in (1.0, 1 + _STEP, 1 - _STEP))
    bend = min(signal.sample_variance, 1.0) / (2 * _STEP**2)  # a sample's q scatters: the mean of a curved map is not
    second = at.second + bend * (near.second + far.second - 2 * at.second)  # the map of the mean
    growth = at.slope_second + bend * (near.slope_second + far.slope_second - 2 * at.slope_second)
    shared = signal.overlap - signal.mean**2
    c = max(-1.0, min(1.0, shared / q)) if q > 0 else 1.0
    together = overlap(activation, q, float(f"{c:.6g}")) * second / at.second if at.second > 0 else 0.0
    ratio = near.slope_second / at.slope_second if at.slope_second > 0 else 1.0
    sensitivity = math.log(ratio) / math.log1p(_STEP) if ratio > 0 else 0.0
    slope = signal_slope(activation, q) * q / at.second if at.second > 0 and q > 0 else 1.0
    from_unit, common = _scatter(activation, float(f"{q:.3g}")), sharing(c, num_samples)
    scatter = from_unit.kurtosis / max(signal.features, 1)
    own_slope = (
        math.log(near.variance / at.variance) / math.log1p(_STEP) if min(near.variance, at.variance) > 0 else 1.0
    )
    own_scatter = from_unit.centred / max(signal.features, 1)
    after = Signal(
        second=max(second, 0.0),
        mean=at.mean,
        overlap=together,
        features=signal.features,
        log_variance=slope**2 * signal.log_variance + scatter * common,
        sample_variance=slope**2 * signal.sample_variance + scatter,
        centred=(
            own_slope**2 * signal.log_variance + own_scatter * common,
            own_slope**2 * signal.sample_variance + own_scatter,
        ),
        places=signal.places,
    )
    kurtosis = at.slope_fourth / at.slope_second**2 - 1 if at.slope_second > 0 else math.inf
    return Passage(after, max(growth, 0.0), max(kurtosis, 0.0), sensitivity, from_unit.slopes)


def sharing(c: float, num_samples: float) -> float:
    """How much of a unit's variance is left in the mean over samples whose pre-activations have correlation `c`.

    1 - (2 / pi) acos(c) is the correlation of two ReLUs' a' there (Cho & Saul 2009), and stands for all functions.
    """
    shared = max(0.0, 1 - 2 * math.acos(max(-1.0, min(1.0, c))) / math.pi)
    return shared + (1 - shared) / max(num_samples, 1.0)
