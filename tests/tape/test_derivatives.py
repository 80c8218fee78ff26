"""Every entry of the activation table against float64 autograd, and the tape's saved values against the table."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradtrace.tape.activations import TABLE, row_measure
from gradtrace.tape.derivatives import Activation, activation_of, activation_of_node

CALLS: dict[str, Any] = {
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "Tensor.relu": lambda x: x.relu(),
    "relu6": F.relu6,
    "nn.ReLU6": torch.nn.ReLU6(),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "leaky_relu, steep": lambda x: F.leaky_relu(x, negative_slope=-1.5),
    "prelu": lambda x: F.prelu(x, torch.full((1,), 0.25, dtype=x.dtype, requires_grad=True)),
    "rrelu": F.rrelu,
    "elu": lambda x: F.elu(x, 1.3),
    "elu, flat": lambda x: F.elu(x, alpha=0.5),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 2.0),
    "gelu": F.gelu,
    "gelu, tanh": lambda x: F.gelu(x, approximate="tanh"),
    "nn.GELU": torch.nn.GELU("tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "torch.sigmoid": torch.sigmoid,
    "F.sigmoid": F.sigmoid,
    "expit": torch.special.expit,
    "hardsigmoid": F.hardsigmoid,
    "logsigmoid": F.logsigmoid,
    "tanh": torch.tanh,
    "Tensor.tanh": lambda x: x.tanh(),
    "hardtanh": lambda x: F.hardtanh(x, -2.0, 3.0),
    "hardtanh, keywords": lambda x: F.hardtanh(x, min_val=-0.5, max_val=0.5),
    "hardswish": F.hardswish,
    "softplus": F.softplus,
    "softplus, beta": lambda x: F.softplus(x, 2, 10),
    "nn.Softplus": torch.nn.Softplus(0.5),
    "softsign": F.softsign,
    "softshrink": lambda x: F.softshrink(x, 0.3),
    "hardshrink": lambda x: F.hardshrink(x, lambd=0.3),
    "tanhshrink": F.tanhshrink,
    "threshold": lambda x: F.threshold(x, 0.1, 20.0),
    "sin": torch.sin,
    "cos": torch.cos,
    "atan": torch.arctan,
    "asinh": torch.asinh,
    "erf": torch.erf,
    "special.erf": torch.special.erf,
    "exp": torch.exp,
    "log": lambda x: x.log(),
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "abs": abs,
    "square": torch.square,
    "square, operator": lambda x: x**2,
    "cube": lambda x: torch.pow(x, 3),
    "clamp": lambda x: torch.clamp(x, -1, 1),
    "clamp, method": lambda x: x.clamp(min=0),
    "clip": lambda x: torch.clip(x, max=2.0),
    "clamp_min": lambda x: x.clamp_min(-0.5),
    "clamp_max": lambda x: x.clamp_max(0.5),
}
IN_PLACE: dict[str, Any] = {
    "relu": lambda x: F.relu(x, inplace=True),
    "torch.relu_": torch.relu_,
    "Tensor.relu_": lambda x: x.relu_(),
    "relu6": lambda x: F.relu6(x, inplace=True),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2, inplace=True),
    "elu": lambda x: F.elu(x, 1.3, inplace=True),
    "F.elu_": lambda x: F.elu_(x, 0.7),
    "selu": lambda x: F.selu(x, inplace=True),
    "celu": lambda x: F.celu(x, 2.0, True),
    "silu": lambda x: F.silu(x, inplace=True),
    "mish": lambda x: F.mish(x, inplace=True),
    "sigmoid": lambda x: x.sigmoid_(),
    "tanh": torch.tanh_,
    "hardsigmoid": lambda x: F.hardsigmoid(x, inplace=True),
    "hardtanh": lambda x: F.hardtanh(x, -2.0, 3.0, inplace=True),
    "hardswish": lambda x: F.hardswish(x, inplace=True),
    "threshold": lambda x: F.threshold(x, 0.1, 20.0, inplace=True),
    "rrelu": lambda x: F.rrelu(x, inplace=True),
    "clamp": lambda x: x.clamp_(-1, 1),
    "exp": torch.exp_,
    "sin": torch.sin_,
}
KINKS = (-3.0, -2.0, -1.0, -0.5, -0.3, 0.0, 0.1, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 6.0, 20.0)
"""Where some entry is not differentiable: the table must choose as autograd does."""


class Spy(TorchFunctionMode):
    """Collects the activations among the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Activation] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        activation = activation_of(func, args, kwargs or {})
        self.seen += [activation] if activation is not None else []
        return func(*args, **(kwargs or {}))


def grid(call_name: str) -> Tensor:
    extreme = torch.tensor([-100.0, -50.0, -20.0, 50.0, 100.0])
    x = torch.cat((torch.linspace(-8, 8, 401), extreme, torch.tensor(KINKS))).double()
    return x[x > 0] if call_name in ("log", "log1p", "sqrt") else x


def seen(call: Any, x: Tensor) -> Activation:
    with Spy() as spy:
        call(x)
    assert len(spy.seen) == 1
    return spy.seen[0]


def autograd(call: Any, x: Tensor) -> tuple[Tensor, Any]:
    leaf = x.clone().requires_grad_()
    y = call(leaf * 1)
    node = y.grad_fn
    return torch.autograd.grad(y.sum(), leaf, retain_graph=True)[0], node


@pytest.mark.parametrize("name", CALLS)
def test_the_derivative_is_autograds(name: str) -> None:
    x = grid(name)
    exact, _ = autograd(CALLS[name], x)
    torch.testing.assert_close(seen(CALLS[name], x).derivative(x), exact, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", CALLS)
def test_float32_agrees_with_float64_also_far_out(name: str) -> None:
    x = grid(name)
    x = x[~torch.isin(x, torch.tensor(KINKS).double())].float()
    single = seen(CALLS[name], x).derivative(x)
    exact, _ = autograd(CALLS[name], x.double())
    assert single.dtype == torch.float32
    assert not single.isnan().any()
    finite = exact < 1e38  # exp(100) is no float32
    torch.testing.assert_close(single[finite].double(), exact[finite], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("function", [torch.sigmoid, torch.tanh])
def test_the_tails_of_saturated_units_keep_their_size_in_float32(function: Any) -> None:
    x = torch.tensor([-30.0, -12.0, 12.0, 30.0])
    exact = 1 / torch.cosh(x.double() / (2 if function is torch.sigmoid else 1)) ** 2
    exact = exact / 4 if function is torch.sigmoid else exact
    torch.testing.assert_close(seen(function, x).derivative(x).double(), exact, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_evaluated_in_float32(dtype: torch.dtype) -> None:
    x = torch.linspace(-6, 6, 50).to(dtype)
    for name in ("torch.sigmoid", "gelu", "mish", "prelu", "softplus"):
        exact, _ = autograd(CALLS[name], x.double())
        measured = seen(CALLS[name], x).derivative(x)
        assert measured.dtype == torch.float32
        torch.testing.assert_close(measured.double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CALLS)
def test_the_maximum_is_the_supremum(name: str) -> None:
    x = torch.cat((torch.linspace(-8, 8, 400_001, dtype=torch.float64), torch.tensor([-1e3, 1e3]).double()))
    x = x[x > (-1 if name == "log1p" else 0)] if name in ("log", "log1p", "sqrt") else x
    activation = seen(CALLS[name], x[:1])
    largest = float(activation.derivative(x).abs().max())
    if activation.derivative_max == float("inf"):
        assert largest > (8 if activation.name in ("log1p", "square") else 50)
        assert activation.flat_below(0.05) == 0.0
    else:
        assert largest <= activation.derivative_max * (1 + 1e-7)  # torch's hardsigmoid holds 1/6 in float32
        assert largest == pytest.approx(activation.derivative_max, rel=2e-5)


@pytest.mark.parametrize(
    ("call", "maximum"),
    [(F.gelu, 1.128904), (F.silu, 1.099839), (F.mish, 1.088498), (torch.sigmoid, 0.25), (F.hardswish, 1.5)],
)
def test_published_maxima(call: Any, maximum: float) -> None:
    assert seen(call, torch.zeros(1)).derivative_max == pytest.approx(maximum, abs=1e-6)


OF_NODE = {name: call for name, call in CALLS.items() if name not in ("softsign", "tanhshrink")}


@pytest.mark.parametrize("name", OF_NODE)
def test_the_tape_gives_the_same(name: str) -> None:
    x = torch.randn(500, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3
    x = x.abs() + 0.1 if name in ("log", "log1p", "sqrt") else x
    exact, node = autograd(OF_NODE[name], x)
    reading = activation_of_node(node)
    assert reading is not None
    activation, preactivation, derivative = reading
    called = seen(OF_NODE[name], x)
    assert (activation.name, activation.derivative_max) == (called.name, called.derivative_max)
    torch.testing.assert_close(derivative, exact, rtol=1e-10, atol=1e-12)
    if activation.name == "relu":
        assert preactivation is None
    else:
        assert preactivation is not None
        torch.testing.assert_close(preactivation, x, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_calls_too(name: str) -> None:
    x = torch.randn(500, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 3
    exact, node = autograd(IN_PLACE[name], x)
    called = seen(IN_PLACE[name], x.clone())
    torch.testing.assert_close(called.derivative(x), exact, rtol=1e-10, atol=1e-12)
    reading = activation_of_node(node)
    assert reading is not None
    assert reading[0].name == called.name
    torch.testing.assert_close(reading[2], exact, rtol=1e-10, atol=1e-12)
    if reading[1] is not None:
        torch.testing.assert_close(reading[1], x, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("inplace", [False, True])
def test_rrelu_in_training_reads_the_drawn_slopes(inplace: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(100, dtype=torch.float64)
    exact, node = autograd(lambda x: F.rrelu(x, 0.1, 0.9, training=True, inplace=inplace), x)
    reading = activation_of_node(node)
    assert reading is not None
    assert reading[1] is not None
    torch.testing.assert_close(reading[2], exact)
    torch.testing.assert_close(reading[1], x)


@pytest.mark.parametrize("shape", [(7, 3), (7, 3, 5), (7, 3, 4, 4)])
def test_prelu_with_a_slope_per_channel(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weight = torch.tensor([0.1, 0.5, -0.2], dtype=torch.float64)
    exact, _ = autograd(lambda x: F.prelu(x, weight), x)
    assert torch.equal(seen(lambda x: F.prelu(x, weight), x).derivative(x), exact)
    exact, node = autograd(lambda x: F.prelu(x, weight.requires_grad_()), x)
    reading = activation_of_node(node)
    assert reading is not None
    assert torch.equal(reading[2], exact)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_glu_measures_its_gate(dim: int) -> None:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    exact, node = autograd(lambda x: F.glu(x, dim), x)
    value_half = exact.chunk(2, dim)[0]
    activation = seen(lambda x: F.glu(x, dim), x)
    torch.testing.assert_close(activation.derivative(x), value_half)
    reading = activation_of_node(node)
    assert reading is not None
    torch.testing.assert_close(reading[2], value_half)


SOFTMAXES = {
    "F.softmax": lambda x: F.softmax(x, dim=-1),
    "torch.softmax": lambda x: torch.softmax(x, -1),
    "method": lambda x: x.softmax(dim=1),
    "softmin": lambda x: F.softmin(-x, dim=-1),
    "safe": lambda x: torch._safe_softmax(x, -1),
}


@pytest.mark.parametrize("name", SOFTMAXES)
def test_softmax_rows_are_measured_by_how_far_the_jacobian_moves_them(name: str) -> None:
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 3
    activation = seen(SOFTMAXES[name], x)
    assert not activation.elementwise
    measured = activation.derivative(-x if name == "softmin" else x)
    p = torch.softmax(x, -1)
    jacobian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    signs = torch.tensor([[1.0 - 2 * (k >> i & 1) for i in range(8)] for k in range(256)], dtype=torch.float64)
    moved = (jacobian @ signs.T).abs().sum(1).amax(-1)  # max |J v|_1 over |v|_inf <= 1 lies at a corner
    peaked = p.amax(-1) >= 0.5
    torch.testing.assert_close(measured[peaked], moved[peaked])
    assert ((moved[~peaked] >= 8 / 9) & (measured[~peaked] == 1.0)).all()
    assert peaked.any()
    assert not peaked.all()
    reading = activation_of_node(autograd(SOFTMAXES[name], x)[1])
    assert reading is not None
    torch.testing.assert_close(reading[2], measured)


def test_softmax_is_flat_where_it_is_one_hot_and_not_where_it_is_diffuse() -> None:
    logits = torch.tensor([[50.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert row_measure(torch.softmax(logits, -1), -1).tolist() == [0.0, 1.0]
    assert row_measure(torch.full((1, 1000), 1e-3), -1).item() == 1.0
    assert row_measure(torch.ones(3, 1), -1).tolist() == [0.0, 0.0, 0.0]  # softmax over one entry is constant


def test_log_softmax_is_never_flat() -> None:
    x = torch.tensor([[50.0, 0.0, 0.0]]).double()
    activation = seen(lambda x: F.log_softmax(x, -1), x)
    assert activation.derivative(x).tolist() == [1.0]
    jacobian = torch.autograd.functional.jacobian(lambda v: F.log_softmax(v, -1), x[0])
    assert torch.linalg.svdvals(jacobian)[-2] == pytest.approx(1.0)


def test_implicit_dim_of_softmax_is_torchs() -> None:
    for shape in [(4,), (4, 5), (4, 5, 6), (4, 5, 6, 7)]:
        x = torch.randn(shape)
        with pytest.warns(UserWarning, match="Implicit dimension"):
            y = F.softmax(x)
        activation = activation_of(F.softmax, (x,), {})
        assert activation is not None
        assert activation.dim is not None
        torch.testing.assert_close(y, torch.softmax(x, activation.dim))


def test_other_functions_are_no_activations() -> None:
    x = torch.ones(2, 2, requires_grad=True)
    assert activation_of(torch.matmul, (x, x), {}) is None
    assert activation_of(torch.pow, (x, x), {}) is None
    assert activation_of(lambda x: x, (x,), {}) is None
    assert activation_of_node((x @ x).grad_fn) is None  # type: ignore[arg-type]
    assert activation_of_node((x**x).grad_fn) is None  # type: ignore[arg-type]


def test_keywords_and_overloads_resolve() -> None:
    x = torch.ones(2)
    for func in (torch.ops.aten.relu.default, torch.ops.aten.relu_.default):
        found = activation_of(func, (x,), {})
        assert found is not None
        assert found.name == "relu"
    found = activation_of(F.leaky_relu, (), {"input": x, "negative_slope": 0.5})
    assert found is not None
    assert found.derivative(-x).tolist() == [0.5, 0.5]


def test_the_derivative_leaves_the_tape_alone() -> None:
    x = torch.ones(2, requires_grad=True)
    for name in ("gelu", "sigmoid", "tanh", "elu"):
        activation = TABLE[name](x)
        assert activation is not None
        assert not activation.derivative(x).requires_grad
