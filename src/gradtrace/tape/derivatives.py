"""Which activation function is this torch call, or this op on the tape, and what was a'(x) there?

A call is resolved by its name, whichever way it is spelled (``F.gelu``, ``torch.relu_``, ``x.sigmoid()``); a node by
what autograd saved in it: the argument x, or the result y, from which a' follows (sigmoid: y (1 - y); tanh: 1 - y^2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradtrace.tape.activations import SELU_ALPHA, TABLE, Activation, elu_like, leaky_like, row_measure, wide
from gradtrace.tape.kinds import base_name
from gradtrace.tape.private import is_saved, saved, shows_saved

if TYPE_CHECKING:
    from torch.autograd.graph import Node

__all__ = ["Activation", "activation_of", "activation_of_node"]

_ALIASES = {
    "log_sigmoid": "logsigmoid",
    "_threshold": "threshold",
    "expit": "sigmoid",
    "clip": "clamp",
    "absolute": "abs",
    "__abs__": "abs",
    "__pow__": "pow",
    "arctan": "atan",
    "arcsinh": "asinh",
    "_safe_softmax": "softmax",
    "_softmax": "softmax",
    "_log_softmax": "log_softmax",
}
_IGNORED = ("out", "inplace", "dtype", "_stacklevel")

Reading = tuple[Activation, Tensor | None, Tensor]
"""(activation, pre-activation where it is known, a')."""


def activation_of(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Activation | None:
    """The activation that a call of the torch function `func` is, as a `TorchFunctionMode` sees it; None for others.

    >>> activation_of(torch.nn.functional.leaky_relu, (torch.zeros(2),), {"negative_slope": 0.2}).name
    'leaky_relu'
    >>> activation_of(torch.matmul, (torch.zeros(2), torch.zeros(2)), {}) is None
    True
    """
    name = getattr(func, "__name__", "").split(".")[0].removeprefix("special_")
    name = _ALIASES.get(name, name)
    build = TABLE.get(name) or TABLE.get(name.removesuffix("_"))
    if build is None:
        return None
    rest = {key: value for key, value in kwargs.items() if key not in _IGNORED}
    first = args[0] if args else rest.pop("input", rest.pop("self", None))
    return build(first, *args[1:], **rest) if isinstance(first, Tensor) else None


def activation_of_node(node: Node) -> Reading | None:
    """The activation that an op of the tape is, its pre-activation (None where not recoverable), and a' there.

    Reading saved values may recompute a forward pass under checkpointing; after a backward pass that freed them torch
    raises RuntimeError.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> activation, preactivation, derivative = activation_of_node(torch.sigmoid(x).grad_fn)
    >>> activation.name, preactivation, derivative
    ('sigmoid', tensor([1.0000, 2.0000]), tensor([0.1966, 0.1050]))
    """
    read = NODES.get(base_name(node.name()))
    if read is None or not shows_saved():
        return None
    with torch.no_grad():
        return read(node)


def _from_argument(name: str, *parameters: str) -> Callable[[Any], Reading | None]:
    """Reads an op that saved its argument, and its parameters under the names `parameters`."""

    def read(node: Any) -> Reading | None:
        x = saved(node, "self").detach()
        activation = TABLE[name](x, *(saved(node, parameter) for parameter in parameters))
        return None if activation is None else (activation, x, activation.derivative(x))

    return read


def _from_result(
    name: str, derivative: Callable[[Tensor], Tensor], inverse: Callable[[Tensor], Tensor] | None
) -> Callable[[Any], Reading | None]:
    """Reads an op that saved its result y: a'(y), and x by the inverse function (infinite where y is rounded to 1)."""

    def read(node: Any) -> Reading | None:
        y = wide(saved(node, "result"))
        activation = TABLE[name](y)
        assert activation is not None
        return activation, inverse(y) if inverse is not None else None, derivative(y)

    return read


def _leaky(node: Any) -> Reading:
    slope = saved(node, "negative_slope")
    activation = leaky_like("leaky_relu", slope)
    if is_saved(node, "self"):
        x = saved(node, "self").detach()
        return activation, x, activation.derivative(x)
    y = wide(saved(node, "result"))  # in place: the slope is not negative, so y has the sign of x
    return activation, torch.where(y > 0, y, y / slope) if slope else None, activation.derivative(y)


def _rrelu(node: Any) -> Reading:
    lower, upper = saved(node, "lower"), saved(node, "upper")
    values = wide(saved(node, "self") if is_saved(node, "self") else saved(node, "result"))
    slopes = wide(saved(node, "noise")) if saved(node, "training") else torch.full_like(values, (lower + upper) / 2)
    derivative = torch.where(values > 0, torch.ones_like(values), slopes)
    activation = TABLE["rrelu"](values, lower, upper)
    assert activation is not None
    return activation, values if is_saved(node, "self") else values / derivative, derivative


def _elu(node: Any) -> Reading:
    alpha, scale = saved(node, "alpha"), saved(node, "scale", 1.0)
    is_celu = "Celu" in node.name()
    name = "celu" if is_celu else ("selu" if alpha == SELU_ALPHA else "elu")
    input_scale = 1 / alpha if is_celu else saved(node, "input_scale")
    activation = elu_like(name, alpha, scale, input_scale)
    if is_saved(node, "self"):
        x = saved(node, "self").detach()
        return activation, x, activation.derivative(x)
    y = wide(saved(node, "result"))  # in place: y = scale alpha (exp(input_scale x) - 1) below zero
    below = y / (scale * alpha)
    x = torch.where(y > 0, y / scale, torch.log1p(below) / input_scale)
    return activation, x, torch.where(y > 0, scale, input_scale * (y + scale * alpha))


def _softmax(node: Any) -> Reading:
    p = saved(node, "result").detach()
    axis = _signed(saved(node, "dim"))
    activation = TABLE["softmax"](p, axis)
    assert activation is not None
    return activation, None, row_measure(p, axis)


def _log_softmax(node: Any) -> Reading:
    y = saved(node, "result").detach()
    activation = TABLE["log_softmax"](y, _signed(saved(node, "dim")))
    assert activation is not None
    return activation, None, activation.derivative(y)


def _glu(node: Any) -> Reading:
    x = saved(node, "self").detach()
    activation = TABLE["glu"](x, _signed(saved(node, "dim")))
    assert activation is not None
    return activation, x, activation.derivative(x)


def _prelu(node: Any) -> Reading:
    x, weight = saved(node, "self").detach(), saved(node, "weight").detach()
    activation = TABLE["prelu"](x, weight)
    assert activation is not None
    return activation, x, activation.derivative(x)


def _signed(dim: int) -> int:
    return dim - 2**64 if dim >= 2**63 else dim  # autograd hands out a negative axis as an unsigned number


INVERSES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "Sigmoid": (lambda y: y * (1 - y), torch.logit),
    "Tanh": (lambda y: 1 - y.square(), torch.atanh),
}
"""Of ops that saved their result y alone and that recurrences repeat: a'(y), and x(y)."""

NODES: dict[str, Callable[[Any], Reading | None]] = {
    "Relu": _from_result("relu", lambda y: (y > 0).to(y.dtype), None),
    "LeakyRelu": _leaky,
    "PreluKernel": _prelu,
    "RreluWithNoise": _rrelu,
    "Elu": _elu,
    "Celu": _elu,
    "Gelu": _from_argument("gelu", "approximate"),
    "Silu": _from_argument("silu"),
    "Mish": _from_argument("mish"),
    "Sigmoid": _from_result("sigmoid", *INVERSES["Sigmoid"]),
    "Hardsigmoid": _from_argument("hardsigmoid"),
    "LogSigmoid": _from_argument("logsigmoid"),
    "Tanh": _from_result("tanh", *INVERSES["Tanh"]),
    "Hardtanh": _from_argument("hardtanh", "min_val", "max_val"),
    "Hardswish": _from_argument("hardswish"),
    "Softplus": _from_argument("softplus", "beta", "threshold"),
    "Softshrink": _from_argument("softshrink", "lambd"),
    "Hardshrink": _from_argument("hardshrink", "lambd"),
    "Threshold": _from_argument("threshold", "threshold"),
    "Glu": _glu,
    "Softmax": _softmax,
    "SafeSoftmax": _softmax,
    "LogSoftmax": _log_softmax,
    "Sin": _from_argument("sin"),
    "Cos": _from_argument("cos"),
    "Atan": _from_argument("atan"),
    "Asinh": _from_argument("asinh"),
    "Erf": _from_argument("erf"),
    "Exp": _from_result("exp", lambda y: y, torch.log),
    "Log": _from_argument("log"),
    "Log1P": _from_argument("log1p"),
    "Sqrt": _from_result("sqrt", lambda y: 0.5 / y, torch.square),
    "Abs": _from_argument("abs"),
    "Pow": _from_argument("pow", "exponent"),
    "Clamp": _from_argument("clamp", "min", "max"),
    "ClampMin": _from_argument("clamp_min", "min"),
    "ClampMax": _from_argument("clamp_max", "max"),
}
"""Node name (without its ``Backward0``) -> reader. softsign, tanhshrink are several ops on the tape: calls only."""
