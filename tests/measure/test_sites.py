"""Every op knows its module, which call of it, and the line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.measure.zoo import Blocked, Cube, Net, square
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradtrace
from gradtrace.records.trace import Op

X = torch.randn(6, 4)


def op_of(model: nn.Module, name: str, loss_fn: Callable[[Any, Any], Tensor] = square, x: Tensor = X) -> list[Op]:
    trace = gradtrace.trace(model, loss_fn, x)
    return sorted((op for op in trace.ops if op.name == name), key=lambda op: op.sequence)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return F.relu(x)  # the line of relu


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.sigmoid(self.inner(x)))


def line_of(thing: Any, words: str) -> str:
    lines, start = inspect.getsourcelines(thing)
    return f"tests/measure/test_sites.py:{start + next(i for i, line in enumerate(lines) if words in line)}"


def test_module_call_and_line() -> None:
    model = Outer()
    first, second = op_of(model, "AddmmBackward0")
    assert (first.site.module, first.site.module_type, first.site.call) == ("inner.linear", "Linear", 0)
    assert (second.site.module, second.site.call) == ("inner.linear", 1)
    assert first.site.source == line_of(Inner, "self.linear(x)")
    first, second = op_of(model, "ReluBackward0")
    assert (first.site.module, first.site.call, second.site.call) == ("inner", 0, 1)
    assert first.site.source == line_of(Inner, "the line of relu")
    (sigmoid,) = op_of(model, "SigmoidBackward0")
    assert (sigmoid.site.module, sigmoid.site.module_type) == ("", "Outer")
    (loss,) = op_of(model, "MeanBackward0")
    assert loss.site.module is None
    assert str(second.site).startswith("inner#2 (")


def test_parameters_belong_to_the_module_that_owns_them() -> None:
    trace = gradtrace.trace(Outer(), square, X)
    leaves = {op.parameter: op.site.module for op in trace.ops if op.parameter}
    assert leaves == {"inner.linear.weight": "inner.linear", "inner.linear.bias": "inner.linear"}


def test_non_reentrant_checkpoints_show_the_modules_inside() -> None:
    inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    model = Net(lambda net, x: checkpoint(net.inner, x, use_reentrant=False), inner=inner)
    (tanh,) = op_of(model, "TanhBackward0")
    assert (tanh.site.module, tanh.site.call) == ("inner.1", 0)


def test_a_custom_function_has_the_line_that_applies_it() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        return Cube.apply(net.layer(x))  # applied here

    (cube,) = op_of(Net(run, layer=nn.Linear(4, 4)), "CubeBackward")
    assert cube.site.source == line_of(run, "applied here")
    assert cube.function == "Cube"


class Quiet(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return STORED

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


STORED = torch.randn(6, 4)


def test_a_custom_function_that_calls_nothing_has_the_line_of_its_definition() -> None:
    (quiet,) = op_of(Net(lambda net, x: Quiet.apply(net.layer(x)), layer=nn.Linear(4, 4)), "QuietBackward")
    assert quiet.site.source == line_of(Quiet, "@staticmethod")


def test_custom_functions_side_by_side() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        a = Cube.apply(net.layer(x))  # first
        b = Cube.apply(a)  # second
        return Blocked.apply(a, b)

    first, second = op_of(Net(run, layer=nn.Linear(4, 4)), "CubeBackward")
    assert first.site.source == line_of(run, "first")
    assert second.site.source == line_of(run, "second")


def test_a_module_whose_forward_raised_does_not_own_what_comes_later() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        try:
            net.bad(x)
        except RuntimeError:
            return torch.sigmoid(net.good(x))
        return x

    def fails(net: Any, x: Tensor) -> Tensor:
        raise RuntimeError

    model = Net(run, good=nn.Linear(4, 4), bad=Net(fails, part=nn.Linear(4, 4)))
    (sigmoid,) = op_of(model, "SigmoidBackward0")
    assert sigmoid.site.module == ""


def test_the_same_module_under_two_names_has_the_first() -> None:
    shared = nn.Linear(4, 4)
    first, second = op_of(nn.Sequential(shared, shared), "AddmmBackward0")
    assert (first.site.module, first.site.call, second.site.module, second.site.call) == ("0", 0, "0", 1)


def test_a_second_model_is_outside() -> None:
    critic = nn.Linear(4, 1)
    own, other = op_of(nn.Linear(4, 4), "AddmmBackward0", lambda model, x: critic(model(x)).mean())
    assert own.site.module == ""
    assert other.site.module is None
    assert set(own.weights) == {"weight", "bias"}


def test_ops_of_a_double_backward_have_the_line_of_grad() -> None:
    def penalty(model: nn.Module, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).tanh().sum(), x, create_graph=True)
        return slope.square().mean()

    (op,) = op_of(nn.Linear(4, 1), "TanhBackwardBackward0", penalty)
    assert op.site.source == line_of(penalty, "autograd.grad")
    assert op.function == "grad"


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_an_unrolled_recurrence_has_each_steps_ops_under_its_module(kind):
    model = nn.ModuleDict({"rnn": kind(3, 5), "head": nn.Linear(5, 1)})

    def loss_fn(model, x):
        return model["head"](model["rnn"](x)[0][-1]).square().mean()

    x = torch.randn(7, 2, 3)
    fused, steps = (gradtrace.trace(model, loss_fn, x, unroll=unroll) for unroll in (False, True))
    inside = [op for op in steps.ops if op.site.module == "rnn" and "rnn.weight_hh_l0" in op.weights]
    assert len(inside) == 7
    assert not any(op.opaque for op in steps.ops)
    for a, b in zip(fused.parameters, steps.parameters, strict=True):
        assert a.gradient.norm == pytest.approx(b.gradient.norm, rel=1e-5)
    assert not model["rnn"]._forward_hooks


def test_the_weights_of_a_norm_behind_an_input_with_a_gradient_are_none_of_a_layer_s() -> None:
    """Such an input is data, and what lies between it and a layer no parametrisation."""
    model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2))
    x = torch.ones(3, 4).requires_grad_()
    trace = gradtrace.trace(model, lambda model, x: model(x).square().mean(), x)
    assert [sorted(op.weights) for op in trace.ops if op.weights] == [["1.bias", "1.weight"]]


def test_a_network_that_the_model_does_not_know_is_none_of_its_loss() -> None:
    """As of a decoder whose optimizer has not stepped yet, when the encoder alone is watched."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    decoder = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6), nn.Sigmoid())
    x = torch.rand(5, 6)
    trace = gradtrace.trace(encoder, lambda model, x: F.binary_cross_entropy(decoder(model(x)), x), x)
    outside = [op for op in trace.ops if op.site.module is None and "Accumulate" not in op.name]
    factors = {op.name.removesuffix("Backward0"): op.factor.value for op in outside}
    assert factors["BinaryCrossEntropy"] == "loss"
    assert factors["Addmm"] == "weight"
    assert factors["Relu"] == "activation"
    assert all(op.weights == () for op in outside)
    assert {p.name for p in trace.parameters} == {name for name, _ in encoder.named_parameters()}


def test_a_classifier_of_bare_tensors_that_the_model_does_not_know_is_no_attention() -> None:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid())
    hidden, out = (torch.randn(*shape).requires_grad_() for shape in ((8, 8), (8, 3)))
    z, code = torch.randn(5, 4), torch.eye(3)[torch.tensor([0, 1, 2, 0, 1])]

    def loss_fn(model: nn.Module, z: Tensor) -> Tensor:
        return -(code * torch.log(F.softmax(torch.relu(model(z) @ hidden) @ out, -1) + 1e-8)).sum(1).mean()

    trace = gradtrace.trace(generator, loss_fn, z)
    assert "attention" not in {op.factor.value for op in trace.ops}


def test_an_input_that_a_gradient_was_asked_for_is_no_weight() -> None:
    class Attends(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.softmax(x @ x.mT, -1) @ super().forward(x)

    torch.manual_seed(0)
    trace = gradtrace.trace(Attends(4, 4), square, torch.randn(5, 7, 4, requires_grad=True))
    assert [op.factor.value for op in trace.ops].count("attention") == 3
