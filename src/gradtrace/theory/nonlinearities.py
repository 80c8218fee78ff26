"""Which function is a, what is a', and where is either not smooth? The activation functions of torch.nn in NumPy.

Names and parameters are those of `torch.nn.functional`; a' takes at a kink the value that autograd takes. The functions
work on float64 arrays of any shape and are accurate for |x| into the hundreds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gradtrace.theory.backprop import sigmoid
from gradtrace.theory.gaussian import Array, Function


@dataclass(frozen=True, slots=True)
class Nonlinearity:
    """An elementwise function a, its derivative a', and the points where either is not smooth."""

    name: str
    a: Function
    a_prime: Function
    kinks: tuple[float, ...] = ()

    @classmethod
    def of(
        cls, a: Function, a_prime: Function | None = None, kinks: Sequence[float] = (), name: str = ""
    ) -> Nonlinearity:
        """Any elementwise NumPy function of the user's; without `a_prime`, by central differences (to about 1e-9).

        >>> cubic = Nonlinearity.of(lambda x: x**3)
        >>> cubic.a_prime(np.array([2.0])).round(6)
        array([12.])

        Raises:
            ValueError: the function is not elementwise, or not finite.
        """
        probe = np.array([-2.0, -0.5, 0.3, 1.5])
        values = np.asarray(a(probe), dtype=np.float64)
        alone = [np.asarray(a(probe[i : i + 1]), dtype=np.float64) for i in range(4)]
        if values.shape != probe.shape or not np.allclose(values, np.concatenate(alone), equal_nan=True):
            raise ValueError(f"{name or a!r} is not elementwise: its value at one entry depends on the others")
        if not np.isfinite(values).all():
            raise ValueError(f"{name or a!r} is not finite at {probe[~np.isfinite(values)][0]}")
        return cls(name or getattr(a, "__name__", "custom"), a, a_prime or _differences(a), tuple(kinks))


def _differences(a: Function) -> Function:
    def a_prime(x: Array) -> Array:
        h = 1e-6 * np.maximum(1.0, np.abs(x))
        return (a(x + h) - a(x - h)) / (2 * h)

    return a_prime


_erfc = np.frompyfunc(math.erfc, 1, 1)


def normal_cdf(x: Array) -> Array:
    """Phi(x), accurate in the left tail.

    >>> normal_cdf(np.array([-10.0, 0.0]))
    array([7.61985302e-24, 5.00000000e-01])
    """
    return np.asarray(0.5 * _erfc(-x / math.sqrt(2.0)), dtype=np.float64)


def normal_density(x: Array) -> Array:
    """The density phi(x) of N(0, 1)."""
    return np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)


def _sech2(x: Array) -> Array:
    return 4 * sigmoid(2 * x) * sigmoid(-2 * x)


def _step(inside: NDArray[np.bool_]) -> Array:
    return np.asarray(inside, dtype=np.float64)


def _leaky(name: str, slope: float) -> Nonlinearity:
    return Nonlinearity(name, lambda x: np.where(x > 0, x, slope * x), lambda x: np.where(x > 0, 1.0, slope), (0.0,))


def _elu(name: str, alpha: float, scale: float = 1.0, input_scale: float = 1.0) -> Nonlinearity:
    def below(x: Array) -> Array:
        return input_scale * np.minimum(x, 0.0)

    return Nonlinearity(
        name,
        lambda x: scale * np.where(x > 0, x, alpha * np.expm1(below(x))),
        lambda x: scale * np.where(x > 0, 1.0, alpha * input_scale * np.exp(below(x))),
        (0.0,),
    )


def _clamp(name: str, low: float, high: float) -> Nonlinearity:
    return Nonlinearity(name, lambda x: np.clip(x, low, high), lambda x: _step((x > low) & (x < high)), (low, high))


def _gelu_tanh() -> Nonlinearity:
    def inner(x: Array) -> Array:
        return math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)

    def a_prime(x: Array) -> Array:
        u = inner(x)
        return sigmoid(2 * u) + 0.5 * x * _sech2(u) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)

    return Nonlinearity("gelu_tanh", lambda x: x * sigmoid(2 * inner(x)), a_prime)


def _mish() -> Nonlinearity:
    def a_prime(x: Array) -> Array:
        softplus = np.logaddexp(0.0, x)
        return np.tanh(softplus) + x * _sech2(softplus) * sigmoid(x)

    return Nonlinearity("mish", lambda x: x * np.tanh(np.logaddexp(0.0, x)), a_prime)


def _softplus(beta: float = 1.0, threshold: float = 20.0) -> Nonlinearity:
    return Nonlinearity(
        "softplus",
        lambda x: np.where(beta * x > threshold, x, np.logaddexp(0.0, beta * x) / beta),
        lambda x: np.where(beta * x > threshold, 1.0, sigmoid(beta * x)),
        (threshold / beta,),
    )


def _shrink(name: str, lambd: float, shift: float) -> Nonlinearity:
    outside: Function = lambda x: _step(np.abs(x) > lambd)  # noqa: E731
    return Nonlinearity(name, lambda x: outside(x) * (x - shift * np.sign(x)), outside, (-lambd, lambd))


def _threshold(threshold: float = 0.0, value: float = 0.0) -> Nonlinearity:
    return Nonlinearity(
        "threshold", lambda x: np.where(x > threshold, x, value), lambda x: _step(x > threshold), (threshold,)
    )


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805

TABLE: dict[str, Callable[..., Nonlinearity]] = {
    "identity": lambda: Nonlinearity("identity", lambda x: x, np.ones_like),
    "relu": lambda: _leaky("relu", 0.0),
    "relu6": lambda: _clamp("relu6", 0.0, 6.0),
    "leaky_relu": lambda negative_slope=0.01: _leaky("leaky_relu", negative_slope),
    "prelu": lambda weight=0.25: _leaky("prelu", weight),
    "rrelu": lambda lower=1 / 8, upper=1 / 3: _leaky("rrelu", (lower + upper) / 2),
    "elu": lambda alpha=1.0: _elu("elu", alpha),
    "selu": lambda: _elu("selu", SELU_ALPHA, SELU_SCALE),
    "celu": lambda alpha=1.0: _elu("celu", alpha, input_scale=1 / alpha),
    "gelu": lambda: Nonlinearity("gelu", lambda x: x * normal_cdf(x), lambda x: normal_cdf(x) + x * normal_density(x)),
    "gelu_tanh": _gelu_tanh,
    "silu": lambda: Nonlinearity("silu", lambda x: x * sigmoid(x), lambda x: sigmoid(x) * (1 + x * sigmoid(-x))),
    "mish": _mish,
    "sigmoid": lambda: Nonlinearity("sigmoid", sigmoid, lambda x: sigmoid(x) * sigmoid(-x)),
    "hardsigmoid": lambda: Nonlinearity(
        "hardsigmoid", lambda x: np.clip(x / 6 + 0.5, 0.0, 1.0), lambda x: _step(np.abs(x) < 3) / 6, (-3.0, 3.0)
    ),
    "logsigmoid": lambda: Nonlinearity("logsigmoid", lambda x: -np.logaddexp(0.0, -x), lambda x: sigmoid(-x)),
    "tanh": lambda: Nonlinearity("tanh", np.tanh, _sech2),
    "hardtanh": lambda min_val=-1.0, max_val=1.0: _clamp("hardtanh", min_val, max_val),
    "hardswish": lambda: Nonlinearity(
        "hardswish",
        lambda x: x * np.clip(x / 6 + 0.5, 0.0, 1.0),
        lambda x: np.where(x <= -3, 0.0, np.where(x >= 3, 1.0, x / 3 + 0.5)),
        (-3.0, 3.0),
    ),
    "softplus": _softplus,
    "softsign": lambda: Nonlinearity(
        "softsign", lambda x: x / (1 + np.abs(x)), lambda x: (1 + np.abs(x)) ** -2.0, (0.0,)
    ),
    "softshrink": lambda lambd=0.5: _shrink("softshrink", lambd, lambd),
    "hardshrink": lambda lambd=0.5: _shrink("hardshrink", lambd, 0.0),
    "tanhshrink": lambda: Nonlinearity("tanhshrink", lambda x: x - np.tanh(x), lambda x: np.tanh(x) ** 2),
    "threshold": _threshold,
    "sin": lambda: Nonlinearity("sin", np.sin, np.cos),
    "cos": lambda: Nonlinearity("cos", np.cos, lambda x: -np.sin(x)),
    "atan": lambda: Nonlinearity("atan", np.arctan, lambda x: 1 / (1 + x**2)),
    "asinh": lambda: Nonlinearity("asinh", np.arcsinh, lambda x: (1 + x**2) ** -0.5),
    "erf": lambda: Nonlinearity(
        "erf", lambda x: 1 - 2 * normal_cdf(-math.sqrt(2) * x), lambda x: 2 / math.sqrt(math.pi) * np.exp(-(x**2))
    ),
    "abs": lambda: Nonlinearity("abs", np.abs, np.sign, (0.0,)),
    "square": lambda: Nonlinearity("square", np.square, lambda x: 2 * x),
    "exp": lambda: Nonlinearity("exp", np.exp, np.exp),
}
"""Name -> a function of the parameters (torch's names and defaults) to the nonlinearity."""

NOT_ELEMENTWISE = {"softmax", "softmin", "log_softmax", "glu"}


@lru_cache(maxsize=256)
def nonlinearity(name: str, **parameters: float) -> Nonlinearity:
    """The activation function `name` with its parameters; asked twice, the same object (moments are cached by it).

    >>> nonlinearity("leaky_relu", negative_slope=0.2).a(np.array([-1.0, 3.0]))
    array([-0.2,  3. ])

    Raises:
        ValueError: it is not in the table, or not elementwise.
    """
    if name in NOT_ELEMENTWISE:
        raise ValueError(f"{name} is not elementwise: no theory for single units covers it; it can only be measured")
    if name not in TABLE:
        raise ValueError(
            f"no activation {name!r} in the table (it has {', '.join(TABLE)}); use Nonlinearity.of(function)"
        )
    return TABLE[name](**parameters)
