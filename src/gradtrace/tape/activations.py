"""What is the exact derivative a'(x) of each activation function of torch.nn, and how large can it be?

In L'(l-1) = L'(l) a'(l) f'(l), a' is elementwise: the diagonal of the activation's Jacobian. It is evaluated by the
kernels that autograd itself uses (so it agrees with the tape at kinks), seeded with ones, at the call's own parameters.

Softmax is not elementwise. Its Jacobian J = diag(p) - p p^T moves the row by at most

    max |J v|_1 over |v|_inf <= 1  =  4 s (1 - s),    s = mass of the set on which v = +1, as near 1/2 as sets can be

With p_max >= 1/2 that set is the largest entry alone: 4 p_max (1 - p_max), zero exactly where the row is one-hot. With
p_max < 1/2 some set has s in [1/3, 2/3], so it is at least 8/9: counted as 1. This row measure stands in for a'
(maximum 1); a row is not flat only because its mass is spread over many entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

Derivative = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Activation:
    """An activation function with the parameters of one call bound."""

    name: str
    derivative: Derivative
    """x -> a'(x), of x's shape (float32 where x is narrower); for `elementwise=False` one row measure per row along
    `dim`; for glu one value per output."""
    derivative_max: float
    """sup |a'| over the real line; inf where a' is unbounded, and then nothing counts as flat (see `flat_below`)."""
    elementwise: bool = True
    dim: int | None = None
    """The axis that softmax and glu work along."""
    note: str = ""
    """What a reader must know of `derivative_max` or of the measure, or ''."""
    levels: tuple[float, float] | None = None
    """The two values that a' takes, below (or at) zero and above, where it takes no others."""

    def flat_below(self, frac: float) -> float:
        """|a'| under which the function counts as flat: `frac` of its maximum, 0 where there is no maximum.

        >>> TABLE["sigmoid"]().flat_below(0.05), TABLE["exp"]().flat_below(0.05)
        (0.0125, 0.0)
        """
        return frac * self.derivative_max if math.isfinite(self.derivative_max) else 0.0


def wide(x: Tensor) -> Tensor:
    """`x` off the tape, in float32 or wider."""
    x = x.detach()
    return x.float() if x.element_size() < 4 else x


def _one(x: Tensor) -> Tensor:
    return x.new_ones(()).expand_as(x)


def _bind(name: str, slope: Derivative, maximum: float, dim: int | None = None, note: str = "") -> Activation:
    return Activation(name, lambda x: slope(wide(x)), maximum, dim=dim, note=note)


def _fixed(name: str, slope: Derivative, maximum: float) -> Callable[..., Activation]:
    activation = _bind(name, slope, maximum)
    return lambda *_, **__: activation


def row_measure(p: Tensor, dim: int) -> Tensor:
    """4 q (1 - q), q = max(p_max, 1/2), of the probabilities `p` along `dim`: 1 for a diffuse row, 0 for a one-hot one.

    >>> row_measure(torch.tensor([[0.2, 0.8], [0.0, 1.0]]), -1)
    tensor([0.6400, 0.0000])
    """
    q = wide(p).amax(dim).clamp_min(0.5)
    return 4 * q * (1 - q)


def _rows(name: str, sign: float = 1.0) -> Callable[..., Activation]:
    def build(x: Tensor, dim: int | None = None, *_: Any, **__: Any) -> Activation:
        axis = dim if dim is not None else int(x.dim() not in (0, 1, 3))  # torch's implicit choice
        measure: Derivative = lambda x: row_measure(torch.softmax(sign * wide(x), axis), axis)  # noqa: E731
        return Activation(name, measure, 1.0, elementwise=False, dim=axis, note="row measure 4 p_max (1 - p_max)")

    return build


def _log_rows(x: Tensor, dim: int | None = None, *_: Any, **__: Any) -> Activation:
    axis = dim if dim is not None else int(x.dim() not in (0, 1, 3))
    note = "I - 1 p^T is an oblique projection: singular values 0, 1, ..., 1, sqrt(n) |p| >= 1, so it is never flat"
    return Activation("log_softmax", lambda x: torch.ones_like(wide(x).select(axis, 0)), 1.0, False, axis, note)


def leaky_like(name: str, slope: float) -> Activation:
    """The function that is x above zero and slope x below."""
    activation = _bind(name, lambda x: aten.leaky_relu_backward(_one(x), x, slope, False), max(1.0, abs(slope)))
    return replace(activation, levels=(slope, 1.0))


def _rrelu(_x: Any, lower: float = 1 / 8, upper: float = 1 / 3, *_: Any, **__: Any) -> Activation:
    slope, note = (lower + upper) / 2, "slope below zero is its mean; in training the tape holds the drawn ones"
    maximum = max(1.0, abs(lower), abs(upper))
    return _bind("rrelu", lambda x: aten.leaky_relu_backward(_one(x), x, slope, False), maximum, note=note)


def _prelu(_x: Any, weight: Tensor, *_: Any, **__: Any) -> Activation:
    def slope(x: Tensor) -> Tensor:
        w = wide(weight).to(x.dtype)
        channels = w.reshape(-1, *[1] * (x.dim() - 2)) if w.numel() > 1 and x.dim() > 1 and w.dim() <= 1 else w
        return torch.where(x > 0, _one(x), channels)

    return _bind("prelu", slope, 1.0, note="the slopes are learned and stay on the device: 1 holds while |slope| <= 1")


def elu_like(name: str, alpha: float, scale: float = 1.0, input_scale: float = 1.0) -> Activation:
    """Elu, selu and celu: scale x above zero, scale alpha (exp(input_scale x) - 1) below."""
    maximum = max(scale, abs(alpha * scale * input_scale))
    return _bind(name, lambda x: aten.elu_backward(_one(x), alpha, scale, input_scale, False, x), maximum)


def _gelu(_x: Any = None, approximate: str = "none", **__: Any) -> Activation:
    name, maximum = ("gelu", GELU_MAX) if approximate == "none" else ("gelu_tanh", GELU_TANH_MAX)
    return _bind(name, lambda x: aten.gelu_backward(_one(x), x, approximate=approximate), maximum)


def _hardtanh(_x: Any = None, min_val: float = -1.0, max_val: float = 1.0, *_: Any, **__: Any) -> Activation:
    name = "relu6" if (min_val, max_val) == (0, 6) else "hardtanh"
    return _bind(name, lambda x: aten.hardtanh_backward(_one(x), x, min_val, max_val), 1.0)


def _softplus(_x: Any = None, beta: float = 1.0, threshold: float = 20.0, **__: Any) -> Activation:
    return _bind("softplus", lambda x: aten.softplus_backward(_one(x), x, beta, threshold), 1.0)


def _glu(_x: Any = None, dim: int = -1, **__: Any) -> Activation:
    note = "the gate sigmoid(b), d(a sigmoid(b))/da; the gate's own input gets a sigmoid'(b), unbounded in a"
    return _bind("glu", lambda x: torch.sigmoid(x.chunk(2, dim)[1]), 1.0, dim, note)


def _slope_at_bound() -> float:
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.zeros((), requires_grad=True)
        return float(torch.autograd.grad(x.clamp(min=0.0), x)[0])


_BOUND_IS_INSIDE = _slope_at_bound() > 0
"""Whether clamp's a' at its very bound is 1, as in torch 2.13, or 0, as in 2.15: asked of the torch at hand."""


def _clamp(_x: Any = None, min: Any = None, max: Any = None, **__: Any) -> Activation:
    def slope(x: Tensor) -> Tensor:
        inside = torch.ones_like(x, dtype=torch.bool)
        if min is not None:
            inside &= x >= min if _BOUND_IS_INSIDE else x > min
        if max is not None:
            inside &= x <= max if _BOUND_IS_INSIDE else x < max
        return inside.to(x.dtype)

    return _bind("clamp", slope, 1.0)


def _pow(_x: Any, exponent: Any = None, **__: Any) -> Activation | None:
    if not isinstance(exponent, int | float):
        return None
    power = float(exponent)
    maximum = {0.0: 0.0, 1.0: 1.0}.get(power, math.inf)
    return _bind("square" if power == 2 else "pow", lambda x: power * x.pow(power - 1), maximum)


GELU_MAX = 1.1289041451851548
"""At sqrt 2: Phi(sqrt 2) + sqrt 2 phi(sqrt 2)."""
GELU_TANH_MAX = 1.1289930686587718
SILU_MAX = 1.0998393201288669
"""At 2.3994, where x tanh(x/2) = 2."""
MISH_MAX = 1.0884981612517279
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805

_RELU = replace(_bind("relu", lambda x: aten.threshold_backward(_one(x), x, 0), 1.0), levels=(0.0, 1.0))

TABLE: dict[str, Callable[..., Activation | None]] = {
    # name: a'(x), sup |a'|
    "relu": lambda *_, **__: _RELU,
    "relu6": lambda x, *_, **__: _hardtanh(x, 0, 6),
    "leaky_relu": lambda _x, negative_slope=0.01, *_, **__: leaky_like("leaky_relu", negative_slope),
    "prelu": _prelu,
    "rrelu": _rrelu,
    "elu": lambda _x, alpha=1.0, *_, **__: elu_like("elu", alpha),
    "selu": lambda *_, **__: elu_like("selu", SELU_ALPHA, SELU_SCALE),
    "celu": lambda _x, alpha=1.0, *_, **__: elu_like("celu", alpha, input_scale=1 / alpha),
    "gelu": _gelu,
    "silu": _fixed("silu", lambda x: aten.silu_backward(_one(x), x), SILU_MAX),
    "mish": _fixed("mish", lambda x: aten.mish_backward(_one(x), x), MISH_MAX),
    "sigmoid": _fixed("sigmoid", lambda x: torch.sigmoid(x) * torch.sigmoid(-x), 0.25),
    "hardsigmoid": _fixed("hardsigmoid", lambda x: aten.hardsigmoid_backward(_one(x), x), 1 / 6),
    "logsigmoid": _fixed("logsigmoid", lambda x: torch.sigmoid(-x), 1.0),
    "tanh": _fixed("tanh", lambda x: torch.cosh(x).reciprocal_().square_(), 1.0),
    "hardtanh": _hardtanh,
    "hardswish": _fixed("hardswish", lambda x: aten.hardswish_backward(_one(x), x), 1.5),
    "softplus": _softplus,
    "softsign": _fixed("softsign", lambda x: x.abs().add_(1).reciprocal_().square_(), 1.0),
    "softshrink": lambda _x, lambd=0.5: _bind("softshrink", lambda x: (x.abs() > lambd).to(x.dtype), 1.0),
    "hardshrink": lambda _x, lambd=0.5: _bind("hardshrink", lambda x: (x.abs() > lambd).to(x.dtype), 1.0),
    "tanhshrink": _fixed("tanhshrink", lambda x: torch.tanh(x).square_(), 1.0),
    "threshold": lambda _x, threshold, *_, **__: _bind(
        "threshold", lambda x: aten.threshold_backward(_one(x), x, threshold), 1.0
    ),
    "glu": _glu,
    "softmax": _rows("softmax"),
    "softmin": _rows("softmin", -1.0),
    "log_softmax": _log_rows,
    "sin": _fixed("sin", torch.cos, 1.0),
    "cos": _fixed("cos", lambda x: -torch.sin(x), 1.0),
    "atan": _fixed("atan", lambda x: x.square().add_(1).reciprocal_(), 1.0),
    "asinh": _fixed("asinh", lambda x: x.square().add_(1).rsqrt_(), 1.0),
    "erf": _fixed("erf", lambda x: torch.exp(-x.square()) * (2 / math.sqrt(math.pi)), 2 / math.sqrt(math.pi)),
    "exp": _fixed("exp", torch.exp, math.inf),
    "log": _fixed("log", torch.reciprocal, math.inf),
    "log1p": _fixed("log1p", lambda x: (x + 1).reciprocal_(), math.inf),
    "sqrt": _fixed("sqrt", lambda x: torch.rsqrt(x).mul_(0.5), math.inf),
    "abs": _fixed("abs", torch.sgn, 1.0),
    "square": _fixed("square", lambda x: 2 * x, math.inf),
    "pow": _pow,
    "clamp": _clamp,
    "clamp_min": lambda _x, min: _clamp(_x, min, None),
    "clamp_max": lambda _x, max: _clamp(_x, None, max),
}
