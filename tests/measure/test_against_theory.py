"""The trace of a network in PyTorch agrees with the lecture's equations written out in NumPy, at every layer."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradtrace
from gradtrace.records.trace import Op, Trace
from gradtrace.theory import backprop

EXACT = 1e-10


def array(weight: Tensor) -> np.ndarray:
    return weight.detach().numpy()


def norm(x: Any) -> Any:
    return pytest.approx(float(np.linalg.norm(x)), rel=EXACT)


def ops_named(trace: Trace, name: str) -> list[Op]:
    return sorted((op for op in trace.ops if op.name == name), key=lambda op: op.sequence)


def received(op: Op) -> float:
    assert op.received is not None
    return op.received.norm


def passed_on(trace: Trace, op: Op, name: str) -> float:
    """What `op` passes to the op called `name`."""
    (found,) = [
        stats.norm
        for stats, target in zip(op.passed, op.targets, strict=True)
        if stats is not None and target is not None and trace.ops[target[0]].name == name
    ]
    return found


@pytest.mark.parametrize(("activation", "module"), [("sigmoid", nn.Sigmoid), ("tanh", nn.Tanh), ("relu", nn.ReLU)])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_perceptron(activation: str, module: type[nn.Module], loss: str) -> None:
    linears = [nn.Linear(i, o).double() for i, o in itertools.pairwise([6, 8, 7, 8, 3])]
    model = nn.Sequential(*itertools.chain(*[(linear, module()) for linear in linears[:-1]]), linears[-1])
    x = torch.randn(10, 6, dtype=torch.float64)
    target = torch.randint(0, 3, (10,)) if loss == "cross_entropy" else torch.randn(10, 3, dtype=torch.float64)
    names = [activation] * 3 + ["identity"]
    layers = [
        backprop.Layer(array(one.weight), array(one.bias), name) for one, name in zip(linears, names, strict=True)
    ]
    oracle = backprop.backward(layers, array(x), array(target), getattr(backprop, loss))
    torch_loss = F.cross_entropy if loss == "cross_entropy" else F.mse_loss
    trace = gradtrace.trace(model, lambda model, batch: torch_loss(model(batch[0]), batch[1]), (x, target))

    assert trace.loss == pytest.approx(oracle.loss, rel=EXACT)
    gradients = {parameter.name: parameter.gradient for parameter in trace.parameters}
    products = ops_named(trace, "AddmmBackward0")
    activations = ops_named(trace, f"{module.__name__.replace('ReLU', 'Relu')}Backward0")
    for l, layer in enumerate(oracle.layers):
        assert received(products[l]) == norm(layer.after_activation)
        if l < 3:
            assert received(activations[l]) == norm(layer.gradient)
            assert activations[l].gain(0) == pytest.approx(layer.activation_gain, rel=EXACT)
        if l > 0:
            assert passed_on(trace, products[l], activations[l - 1].name) == norm(layer.passed)
        for name, exact in ((f"{2 * l}.weight", layer.dW), (f"{2 * l}.bias", layer.db)):
            gradient = gradients[name]
            assert gradient is not None
            assert gradient.norm == norm(exact)


def last_state(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, target = batch
    h = torch.zeros(len(x), 5, dtype=torch.float64)
    for step in x.unbind(1):
        h = model[0](step, h)  # type: ignore[index]
    return F.mse_loss(model[1](h), target)  # type: ignore[index]


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_recurrence_unrolled(activation: str) -> None:
    cell, head = nn.RNNCell(4, 5, nonlinearity=activation).double(), nn.Linear(5, 2).double()
    x, target = torch.randn(3, 12, 4, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    recurrence = backprop.Recurrence(
        array(cell.weight_ih), array(cell.weight_hh), array(cell.bias_ih + cell.bias_hh), activation
    )
    readout = backprop.Layer(array(head.weight), array(head.bias))
    oracle = backprop.backward_through_time(recurrence, readout, array(x), array(target))
    trace = gradtrace.trace(nn.Sequential(cell, head), last_state, (x, target))

    states = ops_named(trace, "TanhBackward0" if activation == "tanh" else "ReluBackward0")
    assert len(states) == 12
    for op, step in zip(states, oracle.layers, strict=True):
        assert received(op) == norm(step.gradient)
        assert op.gain(0) == pytest.approx(step.activation_gain, rel=EXACT)
    gradients = {parameter.name: parameter.gradient for parameter in trace.parameters}
    for name, exact in {
        "0.weight_hh": sum(step.dW for step in oracle.layers),
        "0.bias_hh": sum(step.db for step in oracle.layers),
        "0.weight_ih": backprop.input_weight_gradient(oracle, array(x)),
    }.items():
        gradient = gradients[name]
        assert gradient is not None
        assert gradient.norm == norm(exact)
