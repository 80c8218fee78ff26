"""By how much does each kind of layer multiply the mean squared gradient E[g^2], from its output to its input?

    linear          Var(w) fan_out                           (fan_out / fan_in of the signal's factor if rectangular)
    convolution     Var(w) (C_out / groups) taps             taps = k / stride per axis, less what falls on the border
    activation      E[a'^2]                                  see `gradtrace.theory.activations`
    dropout         1 / (1 - p)                              inverted, as in torch
    normalisation   E[gamma^2] / Var(z)  (1 - 2 / n)         over n elements; RMS norm E[gamma^2] / E[z^2]  (1 - 1 / n)
    residual sum    1 + alpha^2 growth of the branch         x + alpha f(x)
    pooling         average: taps / k^2; max: outputs / inputs
    recurrence      the layer's growth, once per time step

The gradient and the weights are taken as independent (Schoenholz et al. 2017, section 4; exact for wide layers at
initialisation: Yang, Tensor Programs II, 2020). Var(w) is the mean square of the weights.

Source: He et al. (2015) section 2.2; Yang & Schoenholz, Mean field residual networks (2017); Yang et al., A mean field
theory of batch normalization (2019); Xiao et al., Dynamical isometry of CNNs (2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MEASURED = {
    "attention": "its gradient depends on the tokens through the softmax",
    "softmax": "it is not elementwise",
    "glu": "it multiplies two halves of its input",
    "embedding": "nothing lies below it",
}
"""Kinds of layer without a prediction, and why: they are measured."""


def linear(var_w: float, fan_out: int) -> float:
    """Var(w) fan_out.

    >>> linear(1 / (3 * 512), 512)  # PyTorch's default: a third, and a sixth with ReLU's 1/2
    0.3333333333333333
    """
    return var_w * fan_out


def taps(
    size: int | None, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1, *, transposed: bool = False
) -> float:
    """Along one axis, the mean number of outputs that an input of `size` positions takes part in.

    k / stride (transposed: k) far from the border; `size=None` is that limit.

    >>> taps(None, 3, 2), taps(8, 3, padding=1), taps(8, 3)
    (1.5, 2.75, 2.25)
    """
    if size is None:
        return float(kernel) if transposed else kernel / stride
    reach = dilation * (kernel - 1)
    if transposed:
        num_out = (size - 1) * stride - 2 * padding + reach + 1
        hits = sum(0 <= i * stride - padding + t * dilation < num_out for i in range(size) for t in range(kernel))
    else:
        num_out = (size + 2 * padding - reach - 1) // stride + 1
        hits = sum(0 <= o * stride - padding + t * dilation < size for o in range(num_out) for t in range(kernel))
    return hits / size


def convolution(var_w: float, out_channels: int, axis_taps: Sequence[float], groups: int = 1) -> float:
    """Var(w) (C_out / groups) times the product of `taps` over the axes.

    >>> convolution(2 / (64 * 9), 64, [taps(None, 3), taps(None, 3)])  # He: doubled, halved again by ReLU
    2.0
    """
    return var_w * out_channels / groups * math.prod(axis_taps)


def dropout(p: float) -> float:
    """1 / (1 - p).

    >>> dropout(0.5)
    2.0
    """
    return math.inf if p >= 1.0 else 1 / (1 - p)


def normalisation(variance: float, num_elements: int, gamma_second: float = 1.0, eps: float = 0.0) -> float:
    """Layer, group, instance or (large batch) batch norm over `num_elements` of this variance.

    J = gamma / std (I - 1 1^T / n - z z^T / n): two of n directions are projected out.

    >>> normalisation(4.0, 512)
    0.2490234375
    """
    return gamma_second / (variance + eps) * max(num_elements - 2, 0) / num_elements


def rms_normalisation(second: float, num_elements: int, gamma_second: float = 1.0, eps: float = 0.0) -> float:
    """RMS norm over `num_elements` of this mean square: only the direction of z is projected out.

    >>> rms_normalisation(4.0, 4)
    0.1875
    """
    return gamma_second / (second + eps) * (num_elements - 1) / num_elements


def batch_norm_relu(batch: float = math.inf) -> float:
    """Growth per layer of linear, batch norm, ReLU at its fixed point, for this batch size; pi / (pi - 1) when large.

    ((B - 1 + J_0(r)) / (1 - J_1(r)) - 1) / (B - 3), r = -1 / (B - 1), with the arc-cosine kernels J_0 and J_1, which
    are E[a' a'] / E[a'^2] and E[a a] / E[a^2] of two samples with correlation r (Cho & Saul 2009; Yang et al. 2019).
    No scale of the weights changes it. Holds while batch / width is small.

    >>> round(batch_norm_relu(), 5), round(batch_norm_relu(8), 3)
    (1.46694, 1.788)
    """
    if math.isinf(batch):
        return math.pi / (math.pi - 1)
    if batch <= 3:
        raise ValueError(f"batch norm's gradient has no finite mean square for batches of 3 or less, got {batch}")
    r = -1 / (batch - 1)
    j0 = 1 - math.acos(r) / math.pi
    j1 = (math.sqrt(1 - r * r) + (math.pi - math.acos(r)) * r) / math.pi
    return ((batch - 1 + j0) / (1 - j1) - 1) / (batch - 3)


def residual(branch: float, alpha: float = 1.0) -> float:
    """A sum x + alpha f(x): 1 + alpha^2 branch; the cross term is zero on average.

    >>> residual(1.0), round(residual(1.0, alpha=100**-0.5) ** 100, 4)  # 2 per block, or e at all depths
    (2.0, 2.7048)
    """
    return 1 + alpha**2 * branch


def average_pool(kernel: Sequence[int], axis_taps: Sequence[float]) -> float:
    """Every input hands 1 / K of itself to `taps` outputs: taps / K^2.

    >>> average_pool([2, 2], [taps(8, 2, 2), taps(8, 2, 2)])
    0.0625
    """
    return math.prod(axis_taps) / math.prod(kernel) ** 2


def max_pool(num_outputs: int, num_inputs: int) -> float:
    """Each output's gradient goes to one input: outputs / inputs (windows that do not overlap).

    >>> max_pool(16, 64)
    0.25
    """
    return num_outputs / num_inputs


def time_constant(gate_bias: float) -> float:
    """Steps over which the gradient along a gated cell falls by e: -1 / ln sigmoid(b), b the forget (GRU: update) bias.

    Source: Gers et al. (2000); Tallec & Ollivier, Can recurrent neural networks warp time? (2018), section 2.

    >>> round(time_constant(1.0), 1), round(time_constant(0.0), 2)
    (3.2, 1.44)
    """
    softplus = math.log1p(math.exp(-abs(gate_bias))) + max(-gate_bias, 0.0)  # -ln sigmoid(b)
    return 1 / softplus if softplus else math.inf
