"""Mean field against the literature's numbers and against backpropagation through networks of finite width."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradtrace.theory.backprop import Layer, backward, forward
from gradtrace.theory.finite_width import log_gradient, relative_variance
from gradtrace.theory.mean_field import (
    chi,
    correlation_map,
    critical_curve,
    fixed_correlation,
    fixed_variance,
    mean_field,
    trajectory,
)
from gradtrace.theory.nonlinearities import nonlinearity


def network(rng, width, depth, activation, sigma_w2, sigma_b2=0.0) -> list[Layer]:
    def layer() -> Layer:
        W = rng.normal(0, math.sqrt(sigma_w2 / width), (width, width))
        return Layer(W, rng.normal(0, math.sqrt(sigma_b2), width), activation)

    return [layer() for _ in range(depth)]


def test_ordered_tanh_of_the_literature() -> None:
    """Schoenholz et al. (2017): sigma_w^2 = 1.3, sigma_b^2 = 0.05."""
    field = mean_field(nonlinearity("tanh"), 1.3, 0.05)
    assert (field.chi, field.xi_c) == pytest.approx((0.880164, 7.834), abs=1e-3)
    assert field.c_star == 1.0
    assert field.phase == "ordered"
    assert field.trainable_depth == pytest.approx(47.0, abs=0.1)
    assert field.depth_of_loss(1e-3) == pytest.approx(math.log(1e6) / -math.log(0.880164), rel=1e-5)


def test_the_three_phases() -> None:
    tanh = nonlinearity("tanh")
    phases = [mean_field(tanh, sigma_w2, 0.05).phase for sigma_w2 in (1.0, 1.7609546396, 2.5)]
    assert phases == ["ordered", "critical", "chaotic"]
    chaotic = mean_field(tanh, 2.5, 0.05)
    assert 0 < chaotic.c_star < 1
    again = correlation_map(tanh, 2.5, 0.05, chaotic.q_star, chaotic.c_star)
    assert again == pytest.approx(chaotic.c_star, abs=1e-8)


def test_pytorchs_tanh_gain_is_chaotic() -> None:
    assert mean_field(nonlinearity("tanh"), (5 / 3) ** 2, 0.0).phase == "chaotic"


@pytest.mark.parametrize("name", ["tanh", "relu", "gelu", "sigmoid", "hardtanh", "silu", "elu"])
@pytest.mark.parametrize(("sigma_w2", "sigma_b2"), [(1 / 3, 1e-3), (1.3, 0.05), (0.5, 1.0)])
def test_fixed_points_are_where_iteration_ends(name, sigma_w2, sigma_b2) -> None:
    activation = nonlinearity(name)
    q, c, _ = trajectory(activation, sigma_w2, sigma_b2, 400, q=1.0, c=0.3)[-1]
    q_star = fixed_variance(activation, sigma_w2, sigma_b2)
    assert q_star == pytest.approx(q, rel=1e-9)
    assert fixed_correlation(activation, sigma_w2, sigma_b2, q_star) == pytest.approx(c, abs=1e-6)


def test_variance_that_dies_out_and_that_explodes() -> None:
    assert fixed_variance(nonlinearity("tanh"), 0.5, 0.0) == 0.0
    assert mean_field(nonlinearity("relu"), 1.9, 0.0).q_star == 0.0
    assert mean_field(nonlinearity("relu"), 1.9, 0.0).chi == pytest.approx(0.95)
    exploding = mean_field(nonlinearity("relu"), 2.2, 0.0)
    assert math.isinf(exploding.q_star)
    assert exploding.chi == pytest.approx(1.1)


def test_the_slope_of_the_correlation_map_at_one_is_chi() -> None:
    for name in ("tanh", "gelu", "erf"):
        activation = nonlinearity(name)
        q = fixed_variance(activation, 1.2, 0.1)
        h = 1e-5
        slope = (1.0 - correlation_map(activation, 1.2, 0.1, q, 1.0 - h)) / h
        assert slope == pytest.approx(chi(activation, 1.2, q), rel=1e-3)


def test_the_critical_curve_is_critical() -> None:
    for sigma_w2, sigma_b2, q_star in critical_curve(nonlinearity("tanh"), [0.05, 0.5, 2.0]):
        field = mean_field(nonlinearity("tanh"), sigma_w2, sigma_b2, q=q_star)
        assert field.q_star == pytest.approx(q_star, rel=1e-6)
        assert field.chi == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("name", "growth"), [("relu", 1 / 6), ("tanh", 1 / 3), ("gelu", 1 / 12), ("sigmoid", 0.02)])
def test_growth_in_pytorchs_default_linear(name, growth) -> None:
    """Var(w) = 1 / (3 fan_in), Var(b) = 1 / (3 fan_in), n = 512."""
    field = mean_field(nonlinearity(name), 1 / 3, 1 / (3 * 512))
    assert field.chi == pytest.approx(growth, rel=3e-2)
    assert field.c_star == 1.0


@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid"])
def test_that_growth_is_measured(name) -> None:
    width, depth = 512, 20
    rng = np.random.default_rng(0)
    layers = network(rng, width, depth, name, 1 / 3, 1 / (3 * width))
    result = backward(layers, rng.normal(size=(8, width)), rng.normal(size=(8, width)))
    settled = result.layers[5:]  # the first layers still see the input's variance
    growth = (np.linalg.norm(settled[0].passed) / settled[-1].norm) ** (2 / len(settled))
    assert growth == pytest.approx(mean_field(nonlinearity(name), 1 / 3, 1 / (3 * width)).chi, rel=3e-2)


def test_the_plateau_that_looks_healthy() -> None:
    """Default Linear and ReLU: variance 7.8e-4 at all depths, while all samples become one vector."""
    layers = trajectory(nonlinearity("relu"), 1 / 3, 1 / (3 * 512), 20)
    assert layers[-1][0] == pytest.approx(7.8125e-4, rel=1e-6)
    assert layers[-1][1] == pytest.approx(1.0, abs=1e-6)
    rng = np.random.default_rng(0)
    zs, _ = forward(network(rng, 512, 20, "relu", 1 / 3, 1 / (3 * 512)), rng.normal(size=(2, 512)))
    assert np.mean(zs[-1] ** 2) == pytest.approx(7.8e-4, rel=0.25)  # 512 biases' variance: 6 % per layer's sample
    assert np.corrcoef(*zs[-1]).min() > 0.9999


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_gradients_stay_in_the_stated_interval(name) -> None:
    """200 networks of width 40, 12 layers deep, critical: 95 % lie within, the mean and spread are as predicted."""
    activation, width, depth, trials = nonlinearity(name), 40, 12, 200
    sigma_w2, sigma_b2 = (2.0, 0.0) if name == "relu" else (1.7609546396, 0.05)
    field = mean_field(activation, sigma_w2, sigma_b2, q=1.0 if name == "relu" else 0.57)
    change = []
    rng = np.random.default_rng(1)
    for _ in range(trials):
        x = rng.normal(0, math.sqrt(field.q_star / sigma_w2 * 2), (1, width))
        layers = network(rng, width, depth + 3, name, sigma_w2, sigma_b2)
        result = backward(layers, x, 1e3 * rng.normal(size=(1, width)))
        change.append(math.log10(np.linalg.norm(result.layers[3].passed) / result.layers[-1].norm))
    beta = relative_variance(activation, width, width, field.q_star)
    predicted = log_gradient([field.chi] * depth, [beta] * depth)
    low, high = predicted.interval()
    inside = np.mean([low <= value <= high for value in change])
    assert inside >= 0.9
    assert np.std(change) == pytest.approx(predicted.std_decades, rel=0.25)
    assert np.mean(change) == pytest.approx(predicted.mean_decades, abs=0.1)


def test_finite_width_of_critical_relu() -> None:
    """Hanin (2018): E|g|^4 / (E|g|^2)^2 = (1 + 5 / n)^L, 2.594 for n = 50, L = 10; checked by sampling, too."""
    beta = relative_variance(nonlinearity("relu"), 50, 50)
    assert beta == pytest.approx(5 / 50, rel=1e-9)
    assert (1 + beta) ** 10 == pytest.approx(2.594, abs=1e-3)
    rng = np.random.default_rng(0)
    squares = []
    for _ in range(4000):
        g = rng.normal(size=50)
        for _ in range(3):
            g = rng.normal(0, math.sqrt(2 / 50), (50, 50)) @ (g * (rng.random(50) < 0.5))
        squares.append(g @ g)
    ratio = np.mean(np.square(squares)) / np.mean(squares) ** 2
    assert ratio == pytest.approx((1 + 2 / 50) * 1.1**3, rel=0.05)  # the first vector has a spread of its own


def test_a_layer_that_passes_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="passes no gradient"):
        log_gradient([1.0, 0.0], [0.1, 0.1])
