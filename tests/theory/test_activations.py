"""The NumPy activations against torch's, and what the theory says of them against published numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gradtrace.tape.derivatives import activation_of
from gradtrace.theory.activations import (
    backward_gain,
    critical,
    critical_at,
    forward_gain,
    max_slope,
    moments,
    saturation,
    signal_slope,
)
from gradtrace.theory.nonlinearities import TABLE, Nonlinearity, nonlinearity

TORCH = {
    "identity": lambda x: x * 1,
    "prelu": lambda x: F.prelu(x, torch.tensor([0.25]).double()),
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
}


def torch_function(name):
    return TORCH.get(name) or getattr(F, name, None) or getattr(torch, name)


@pytest.mark.parametrize("name", TABLE)
def test_values_and_derivatives_are_torchs(name) -> None:
    x = np.concatenate((np.linspace(-8, 8, 321), [-100.0, -30.0, 30.0, 100.0, 3.0, -3.0, 1.0, -1.0, 6.0]))
    activation = nonlinearity(name)
    leaf = torch.tensor(x, requires_grad=True)
    y = torch_function(name)(leaf)
    (derivative,) = torch.autograd.grad(y.sum(), leaf)
    np.testing.assert_allclose(activation.a(x), y.detach(), rtol=1e-12, atol=1e-12)
    rtol = 1e-7 if name == "hardsigmoid" else 1e-12  # torch holds 1/6 in float32 there
    a_prime, slope = activation.a_prime(x), derivative.numpy()
    if name == "hardswish":  # at its kinks torch 2.6 takes the slope of the inner side, 2.8 that of the outer one
        kinks = np.abs(x) == 3.0
        inner = np.isclose(slope, np.where(x > 0.0, 1.5, -0.5)) & kinks
        slope = np.where(inner, a_prime, slope)
    np.testing.assert_allclose(a_prime, slope, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("name", TABLE)
def test_the_maximal_slope_is_the_tapes(name) -> None:
    """Two tables, one of torch kernels with literal maxima and one of NumPy formulas: they agree."""
    function = torch_function(name)
    extra = {"prelu": (torch.tensor([0.25]),), "threshold": (0.0, 0.0)}.get(name, ())
    options = {"approximate": "tanh"} if name == "gelu_tanh" else {}
    function = {"prelu": F.prelu, "gelu_tanh": F.gelu, "threshold": F.threshold}.get(name, function)
    on_tape = activation_of(function, (torch.zeros(1), *extra), options)
    if name == "identity":
        assert max_slope(nonlinearity(name))[0] == 1.0
        return
    assert on_tape is not None
    largest, where = max_slope(nonlinearity(name))
    assert largest == pytest.approx(on_tape.derivative_max, rel=1e-9)
    if math.isfinite(largest):
        near = nonlinearity(name).a_prime(np.array([np.nextafter(where, -99), where, np.nextafter(where, 99)]))
        assert np.abs(near).max() == pytest.approx(largest, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "largest", "where"),
    [("sigmoid", 0.25, 0.0), ("tanh", 1.0, 0.0), ("gelu", 1.128904, 2**0.5), ("silu", 1.099839, 2.39936)],
)
def test_published_maxima(name, largest, where) -> None:
    assert max_slope(nonlinearity(name)) == pytest.approx((largest, where), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [("relu", 0.5), ("sigmoid", 0.044836), ("tanh", 0.464403), ("gelu", 0.455851), ("hardtanh", 0.682689)],
)
def test_published_second_moments_of_the_slope(name, value) -> None:
    assert moments(nonlinearity(name)).slope_second == pytest.approx(value, abs=5e-7)


@pytest.mark.parametrize("name", [name for name in TABLE if name != "exp"])
@pytest.mark.parametrize("q", [0.01, 1.0, 16.0])
def test_moments_agree_with_sampling(name, q) -> None:
    activation = nonlinearity(name)
    z = np.sqrt(q) * np.random.default_rng(0).standard_normal(200_000)
    at = moments(activation, q)
    for expected, values in (
        (at.mean, activation.a(z)),
        (at.second, activation.a(z) ** 2),
        (at.slope, activation.a_prime(z)),
        (at.slope_second, activation.a_prime(z) ** 2),
        (at.slope_fourth, activation.a_prime(z) ** 4),
    ):
        assert expected == pytest.approx(values.mean(), abs=5 * values.std() / 200_000**0.5 + 2e-5)


@pytest.mark.parametrize("name", ["tanh", "gelu", "relu", "hardtanh", "selu", "softplus"])
def test_the_slope_of_the_signal_is_its_difference_quotient(name) -> None:
    activation = nonlinearity(name)
    for q in (0.1, 1.0, 9.0):
        quotient = (moments(activation, q * 1.0001).second - moments(activation, q * 0.9999).second) / (q * 2e-4)
        assert signal_slope(activation, q) == pytest.approx(quotient, rel=1e-6)


def test_selu_has_its_fixed_point_at_mean_zero_and_variance_one() -> None:
    """Klambauer et al., Self-normalizing neural networks (2017), theorem 1."""
    at = moments(nonlinearity("selu"))
    assert (at.mean, at.variance) == pytest.approx((0.0, 1.0), abs=1e-9)


def test_gains_beside_pytorchs() -> None:
    """torch.nn.init.calculate_gain: right for ReLU; 5/3 for tanh keeps neither signal nor gradient."""
    assert forward_gain(nonlinearity("relu")) == pytest.approx(torch.nn.init.calculate_gain("relu"))
    assert backward_gain(nonlinearity("relu")) == pytest.approx(2**0.5)
    assert backward_gain(nonlinearity("leaky_relu", negative_slope=0.2)) == pytest.approx(
        torch.nn.init.calculate_gain("leaky_relu", 0.2)
    )
    assert backward_gain(nonlinearity("gelu")) == pytest.approx(1.48, abs=0.005)
    assert backward_gain(nonlinearity("tanh")) < forward_gain(nonlinearity("tanh")) < 5 / 3


def test_saturation_points_are_where_the_slope_crosses_five_percent() -> None:
    for name in ("sigmoid", "tanh", "gelu", "silu", "mish", "elu", "softsign", "erf"):
        activation = nonlinearity(name)
        largest, _ = max_slope(activation)
        for x in filter(math.isfinite, saturation(activation)):
            assert abs(activation.a_prime(np.array([x]))[0]) == pytest.approx(0.05 * largest, rel=1e-9)
    assert saturation(nonlinearity("relu")) == pytest.approx((0.0, math.inf))
    assert saturation(nonlinearity("hardtanh")) == pytest.approx((-1.0, 1.0))
    assert saturation(nonlinearity("identity")) == (-math.inf, math.inf)


def test_critical_tanh_of_the_literature() -> None:
    """Schoenholz et al. (2017), figure 1 and section 3 with sigma_b^2 = 0.05."""
    point = critical(nonlinearity("tanh"), 0.05)
    assert point is not None
    assert (point.sigma_w2, point.q_star) == pytest.approx((1.76095, 0.57005), abs=1e-5)


def test_critical_relu_is_he_initialisation_at_any_variance() -> None:
    for q in (1e-3, 1.0, 50.0):
        assert critical_at(nonlinearity("relu"), q).sigma_w2 == pytest.approx(2.0)
    point = critical(nonlinearity("relu"))
    assert point is not None
    assert (point.sigma_w2, point.sigma_b2) == pytest.approx((2.0, 0.0))
    assert critical(nonlinearity("relu"), 0.05) is None


def test_half_stable_gelu_and_silu() -> None:
    """Roberts, Yaida & Hanin, The principles of deep learning theory (2022), section 5.3.3: chi and dq'/dq both 1."""
    for name, q, sigma_b2, sigma_w2 in (
        ("silu", 14.32017362, 0.55514317, 1.98800468),
        ("gelu", 3.56155281, 0.17292239, 1.98305826),
    ):
        point = critical_at(nonlinearity(name), q)
        assert (point.sigma_w2, point.sigma_b2) == pytest.approx((sigma_w2, sigma_b2), rel=1e-6)
        assert point.sigma_w2 * signal_slope(nonlinearity(name), q) == pytest.approx(1.0, abs=1e-6)


def test_critical_in_the_limit_of_small_variance() -> None:
    for name, sigma_w2 in (("tanh", 1.0), ("gelu", 4.0), ("relu6", 2.0), ("erf", math.pi / 4)):
        point = critical(nonlinearity(name))
        assert point is not None
        assert (point.sigma_w2, point.q_star) == pytest.approx((sigma_w2, 0.0))


def test_a_users_own_function() -> None:
    mine = Nonlinearity.of(lambda x: np.tanh(x) + 0.1 * x)
    exact = Nonlinearity.of(lambda x: np.tanh(x) + 0.1 * x, lambda x: np.cosh(x) ** -2.0 + 0.1)
    assert moments(mine).slope_second == pytest.approx(moments(exact).slope_second, rel=1e-8)
    assert max_slope(exact)[0] == pytest.approx(1.1)
    kinked = Nonlinearity.of(lambda x: np.maximum(x, 0.3), kinks=(0.3,))
    assert moments(kinked).slope_second == pytest.approx(0.5 * math.erfc(0.3 / 2**0.5), rel=1e-6)


def test_bad_functions_are_refused() -> None:
    with pytest.raises(ValueError, match="not elementwise"):
        Nonlinearity.of(lambda x: x / np.abs(x).sum(), name="normalise")
    with pytest.raises(ValueError, match="not finite"), np.errstate(invalid="ignore"):
        Nonlinearity.of(np.sqrt)
    with pytest.raises(ValueError, match="softmax is not elementwise"):
        nonlinearity("softmax")
    with pytest.raises(ValueError, match="no activation 'swoosh'"):
        nonlinearity("swoosh")
    flat = Nonlinearity.of(np.zeros_like, name="flat")
    with pytest.raises(ValueError, match="flat has E"):
        backward_gain(flat)
    assert critical(flat) is None
