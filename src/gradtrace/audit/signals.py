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
from gradtrace.theory.nonlinearities import Nonlinearity

if TYPE_CHECKING:
    from torch import Tensor


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

    @property
    def variance(self) -> float:
        """E[x^2] - E[x]^2 over units."""
        return max(self.second - self.mean**2, 0.0)

    @property
    def correlation(self) -> float:
        """overlap / second, in [-1, 1]."""
        return max(-1.0, min(1.0, self.overlap / self.second)) if self.second > 0 else math.nan

    def scaled(self, factor: float) -> Signal:
        """Of `factor` times the tensor."""
        return replace(self, second=self.second * factor**2, mean=self.mean * factor, overlap=self.overlap * factor**2)


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


@lru_cache(maxsize=1024)
def _shifted(activation: Nonlinearity, mean: float) -> Nonlinearity:
    return Nonlinearity(
        activation.name,
        lambda x: activation.a(x + mean),
        lambda x: activation.a_prime(x + mean),
        tuple(kink - mean for kink in activation.kinks),
    )


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


def activate(activation: Nonlinearity, signal: Signal, num_samples: float) -> Passage:
    """Pass a signal with Gaussian entries through an elementwise function."""
    if abs(signal.mean) > 0.02 * math.sqrt(signal.second):
        activation = _shifted(activation, float(f"{signal.mean:.4g}"))
    q = signal.variance
    at = moments(activation, q)
    near = moments(activation, q * 1.05) if q > 0 else at
    shared = signal.overlap - signal.mean**2
    c = max(-1.0, min(1.0, shared / q)) if q > 0 else 1.0
    together = overlap(activation, q, float(f"{c:.6g}"))
    sensitivity = math.log(near.slope_second / at.slope_second) / math.log(1.05) if at.slope_second > 0 else 0.0
    slope = signal_slope(activation, q) * q / at.second if at.second > 0 and q > 0 else 1.0
    fresh = 5 / signal.features * sharing(c, num_samples)
    after = Signal(at.second, at.mean, together, signal.features, slope**2 * signal.log_variance + fresh)
    kurtosis = at.slope_fourth / at.slope_second**2 - 1 if at.slope_second > 0 else math.inf
    return Passage(after, at.slope_second, max(kurtosis, 0.0), sensitivity)


def sharing(c: float, num_samples: float) -> float:
    """How much of a unit's variance is left in the mean over samples whose pre-activations have correlation `c`.

    1 - (2 / pi) acos(c) is the correlation of two ReLUs' a' there (Cho & Saul 2009), and stands for all functions.
    """
    shared = max(0.0, 1 - 2 * math.acos(max(-1.0, min(1.0, c))) / math.pi)
    return shared + (1 - shared) / max(num_samples, 1.0)
