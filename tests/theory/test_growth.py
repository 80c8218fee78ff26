"""The growth factor of each kind of layer against gradients measured in torch."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from gradtrace.theory import growth


def measured(layer, x: torch.Tensor) -> float:
    """E[g_in^2] / E[g_out^2] for an independent Gaussian gradient at the output."""
    x = x.clone().requires_grad_()
    y = layer(x)
    (g,) = torch.autograd.grad(y, x, torch.randn(y.shape, generator=torch.Generator().manual_seed(1234)))
    return float(g.square().mean())


def gaussian_(layer: nn.Module, std: float) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0, std)
    return layer


@pytest.mark.parametrize(("fan_in", "fan_out"), [(256, 256), (128, 512), (512, 64)])
def test_linear(fan_in, fan_out) -> None:
    layer = gaussian_(nn.Linear(fan_in, fan_out), 0.05)
    assert measured(layer, torch.randn(400, fan_in)) == pytest.approx(growth.linear(0.05**2, fan_out), rel=0.05)


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"), list(itertools.product((1, 2), (0, 1), (1, 2), (1, 4)))
)
def test_convolution(stride, padding, dilation, groups) -> None:
    layer = gaussian_(nn.Conv2d(32, 64, 3, stride, padding, dilation, groups), 0.05)
    axis = growth.taps(9, 3, stride, padding, dilation)
    predicted = growth.convolution(0.05**2, 64, [axis, axis], groups)
    assert measured(layer, torch.randn(30, 32, 9, 9)) == pytest.approx(predicted, rel=0.08)


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), (2, 0)])
def test_transposed_convolution(stride, padding) -> None:
    layer = gaussian_(nn.ConvTranspose1d(32, 64, 4, stride, padding), 0.05)
    predicted = growth.convolution(0.05**2, 64, [growth.taps(9, 4, stride, padding, transposed=True)])
    assert measured(layer, torch.randn(100, 32, 9)) == pytest.approx(predicted, rel=0.08)


def test_circular_padding_has_no_border() -> None:
    layer = gaussian_(nn.Conv1d(32, 64, 3, padding=1, padding_mode="circular"), 0.05)
    predicted = growth.convolution(0.05**2, 64, [growth.taps(None, 3)])
    assert measured(layer, torch.randn(100, 32, 6)) == pytest.approx(predicted, rel=0.05)


def test_dropout() -> None:
    assert measured(nn.Dropout(0.3), torch.randn(500, 500)) == pytest.approx(growth.dropout(0.3), rel=0.02)
    assert growth.dropout(1.0) == math.inf


@pytest.mark.parametrize("size", [8, 256])
def test_norms(size) -> None:
    x = 3 * torch.randn(20_000, size) + 1
    shown = x.var(1, correction=0).reciprocal().mean().reciprocal()  # the mean of 1 / Var is what counts
    assert measured(nn.LayerNorm(size), x) == pytest.approx(growth.normalisation(float(shown), size), rel=0.03)
    second = x.square().mean(1).reciprocal().mean().reciprocal()
    assert measured(nn.RMSNorm(size), x) == pytest.approx(growth.rms_normalisation(float(second), size), rel=0.03)
    rows = 3 * torch.randn(size, 20_000)
    shown = rows.var(0, correction=0).reciprocal().mean().reciprocal()
    assert measured(nn.BatchNorm1d(20_000), rows) == pytest.approx(growth.normalisation(float(shown), size), rel=0.03)


@pytest.mark.parametrize("batch", [8, 64])
def test_batch_norm_relu_explodes_as_yang_et_al_say(batch) -> None:
    """pi / (pi - 1) = 1.46694 for large batches, 1.788 at B = 8 (Yang et al. 2019); width 1024, 12 layers."""
    assert growth.batch_norm_relu() == pytest.approx(1.46694, abs=1e-5)
    assert growth.batch_norm_relu(8) == pytest.approx(1.788, abs=1e-3)
    width, depth = 1024, 12
    blocks = [
        nn.Sequential(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()) for _ in range(depth)
    ]
    x = torch.randn(batch, width, requires_grad=True)
    states = [x]
    for block in blocks:
        states.append(block(states[-1]))
    gradients = torch.autograd.grad(states[-1], states, torch.randn(batch, width))
    rate = float(gradients[2].square().mean() / gradients[-2].square().mean()) ** (1 / (depth - 3))
    assert rate == pytest.approx(growth.batch_norm_relu(batch), rel=0.05)


def test_batches_too_small_for_a_mean_square_are_refused() -> None:
    with pytest.raises(ValueError, match="3 or less"):
        growth.batch_norm_relu(2)


@pytest.mark.parametrize("scaled", [False, True])
def test_residual_blocks_double_unless_scaled(scaled) -> None:
    """x + W relu(x) with He weights: 2^L; with the branch over sqrt(L): (1 + 1/L)^L, less than e."""
    depth, width = 10, 512
    alpha = depth**-0.5 if scaled else 1.0
    weights = [torch.randn(width, width) * (2 / width) ** 0.5 for _ in range(depth)]

    def stack(x: torch.Tensor) -> torch.Tensor:
        for W in weights:
            x = x + alpha * torch.relu(x) @ W
        return x

    predicted = growth.residual(1.0, alpha) ** depth
    assert predicted == pytest.approx((1 + 1 / depth) ** depth if scaled else 2.0**depth)
    assert measured(stack, torch.randn(16, width)) == pytest.approx(predicted, rel=0.15)


def test_pooling() -> None:
    x = torch.randn(50, 8, 12, 12)
    axis = growth.taps(12, 3, 2, 1)
    pool = nn.AvgPool2d(3, 2, 1)
    assert measured(pool, x) == pytest.approx(growth.average_pool([3, 3], [axis, axis]), rel=0.05)
    assert measured(nn.MaxPool2d(2), x) == pytest.approx(growth.max_pool(36, 144), rel=0.05)


def test_time_constant_of_a_forget_gate() -> None:
    """Gradient along the cell of an LSTM whose gates see nothing but their biases."""
    steps = 20
    cell = nn.LSTMCell(4, 8)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.bias_ih[8:16] = 1.0
    c0 = torch.randn(3, 8, requires_grad=True)
    c = c0
    for _ in range(steps):
        c = cell(torch.zeros(3, 4), (torch.zeros(3, 8), c))[1]
    (g,) = torch.autograd.grad(c.sum(), c0)
    assert float(g.mean()) == pytest.approx(math.exp(-steps / growth.time_constant(1.0)), rel=1e-4)
    assert growth.time_constant(800.0) == math.inf
    assert growth.time_constant(-800.0) == pytest.approx(1 / 800)
