"""The equations in NumPy against torch's autograd in float64: two independent ways to the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradtrace.theory.backprop import (
    ACTIVATIONS,
    Layer,
    Recurrence,
    backward,
    backward_through_time,
    cross_entropy,
    input_weight_gradient,
    mse,
    sigmoid,
)

TORCH: dict[str, Any] = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu, "identity": lambda z: z}
TORCH_LOSS: dict[Any, Any] = {mse: nn.functional.mse_loss, cross_entropy: nn.functional.cross_entropy}


def close(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected.detach().numpy(), rtol=1e-12, atol=1e-15)


def random_layers(seed: int, widths: list[int], activations: list[str], gain: float = 1.5) -> list[Layer]:
    rng = np.random.default_rng(seed)
    shapes = zip(widths[1:], widths[:-1], activations, strict=True)
    return [Layer(rng.normal(0, gain / n**0.5, (m, n)), rng.normal(0, 0.3, m), name) for m, n, name in shapes]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    activations=st.lists(st.sampled_from(list(ACTIVATIONS)), min_size=1, max_size=8),
    loss=st.sampled_from([mse, cross_entropy]),
    batch=st.integers(1, 5),
)
def test_an_mlp_agrees_with_autograd_at_every_layer(seed, activations, loss, batch) -> None:
    rng = np.random.default_rng(seed)
    widths = [int(n) for n in rng.integers(1, 9, len(activations) + 1)]
    layers = random_layers(seed, widths, activations)
    x = rng.normal(size=(batch, widths[0]))
    target = rng.integers(0, widths[-1], batch) if loss is cross_entropy else rng.normal(size=(batch, widths[-1]))
    result = backward(layers, x, target, loss)

    weights = [torch.tensor(layer.W, requires_grad=True) for layer in layers]
    biases = [torch.tensor(layer.b, requires_grad=True) for layer in layers]
    ys = [torch.tensor(x, requires_grad=True)]
    for W, b, name in zip(weights, biases, activations, strict=True):
        ys.append(TORCH[name](nn.functional.linear(ys[-1], W, b)) + 0)
        ys[-1].retain_grad()
    value = TORCH_LOSS[loss](ys[-1], torch.tensor(target))
    value.backward()

    assert result.loss == pytest.approx(value.item(), rel=1e-12)
    close(result.output, ys[-1])
    close(result.input_gradient, ys[0].grad)
    for l, step in enumerate(result.layers):
        close(step.gradient, ys[l + 1].grad)
        close(step.passed, ys[l].grad)
        close(step.dW, weights[l].grad)
        close(step.db, biases[l].grad)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("loss", [mse, cross_entropy])
def test_a_recurrent_network_agrees_with_nn_rnn(activation, loss) -> None:
    rng = np.random.default_rng(3)
    rnn = nn.RNN(3, 6, nonlinearity=activation, batch_first=True).double()
    head = nn.Linear(6, 4).double()
    with torch.no_grad():
        for parameter in (*rnn.parameters(), *head.parameters()):
            parameter.copy_(torch.tensor(rng.normal(0, 0.5, parameter.shape)))
    x, h = rng.normal(size=(5, 12, 3)), rng.normal(size=(5, 6))
    target = rng.integers(0, 4, 5) if loss is cross_entropy else rng.normal(size=(5, 4))

    h_torch: Any = torch.tensor(h[None], requires_grad=True)
    states, _ = rnn(torch.tensor(x), h_torch)
    value = TORCH_LOSS[loss](head(states[:, -1]), torch.tensor(target))
    value.backward()

    numbers = {name: parameter.detach().numpy() for name, parameter in rnn.named_parameters()}
    bias = numbers["bias_ih_l0"] + numbers["bias_hh_l0"]
    cell = Recurrence(numbers["weight_ih_l0"], numbers["weight_hh_l0"], bias, activation)
    readout = Layer(head.weight.detach().numpy(), head.bias.detach().numpy())
    result = backward_through_time(cell, readout, x, target, loss, h)

    assert result.loss == pytest.approx(value.item(), rel=1e-12)
    assert len(result.layers) == 12
    close(result.input_gradient, h_torch.grad[0])
    close(sum(step.dW for step in result.layers), rnn.weight_hh_l0.grad)
    close(sum(step.db for step in result.layers), rnn.bias_hh_l0.grad)
    close(input_weight_gradient(result, x), rnn.weight_ih_l0.grad)
    assert result.readout is not None
    close(result.readout.dW, head.weight.grad)


def test_the_product_of_the_gains_is_the_gradient() -> None:
    layers = random_layers(0, [8] * 21, ["sigmoid"] * 20)
    result = backward(layers, np.random.default_rng(1).normal(size=(4, 8)), np.zeros((4, 8)))
    gains = [step.activation_gain * step.weight_gain for step in result.layers]
    assert np.linalg.norm(result.input_gradient) == pytest.approx(result.layers[-1].norm * np.prod(gains), rel=1e-12)


def test_the_gains_keep_to_their_bounds() -> None:
    for name in ACTIVATIONS:
        layers = random_layers(2, [16] * 11, [name] * 10, gain=2.0)
        result = backward(layers, np.random.default_rng(1).normal(size=(4, 16)), np.zeros((4, 16)))
        for layer, step in zip(layers, result.layers, strict=True):
            assert step.activation_gain <= step.derivative_max
            assert step.weight_gain <= np.linalg.norm(layer.W, 2) * (1 + 1e-12)


def test_xavier_on_relu_loses_a_factor_two_to_the_fifteen_in_30_layers() -> None:
    """Var(w) = 1/n keeps E[g^2] of a linear network; a ReLU halves it: 2^-30 of it, 2^-15 = 3.05e-5 of the norm.

    Source: He et al., Delving deep into rectifiers (2015), section 2.2.
    """
    ratios = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        layers = [Layer(rng.normal(0, 256**-0.5, (256, 256)), np.zeros(256), "relu") for _ in range(30)]
        result = backward(layers, rng.normal(size=(1, 256)), rng.normal(size=(1, 256)) * 1e3)
        ratios.append(np.linalg.norm(result.input_gradient) / result.layers[-1].norm)
    # 5 / n = 0.02 per layer of variance in the log of the squared norm: 0.39 over 30 layers in ln of the norm
    assert np.exp(np.mean(np.log(ratios))) == pytest.approx(2.0**-15, rel=3 * 0.39 / 8**0.5 + 0.2)


def test_a_layer_of_dead_units_passes_nothing_and_says_nan() -> None:
    dead = Layer(np.eye(2), np.full(2, -9.0), "relu")
    result = backward([Layer(np.eye(2), np.zeros(2)), dead], np.ones((1, 2)), np.ones((1, 2)))
    assert result.layers[1].activation_gain == 0.0
    assert np.isnan(result.layers[0].activation_gain)
    assert np.isnan(result.layers[1].weight_gain)


def test_sigmoid_is_accurate_in_both_tails() -> None:
    z = np.array([-700.0, -50.0, 0.0, 50.0, 800.0])
    np.testing.assert_allclose(sigmoid(z), [np.exp(-700), np.exp(-50), 0.5, 1.0, 1.0], rtol=1e-14)
    assert ACTIVATIONS["sigmoid"][1](np.array([50.0]))[0] == pytest.approx(np.exp(-50), rel=1e-13)
