"""Gaussian expectations against closed forms, for any width of the Gaussian and with kinks it was not told about."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradtrace.theory.gaussian import expectation, pair_expectation
from gradtrace.theory.nonlinearities import nonlinearity, normal_cdf

variances = st.floats(-8, 8).map(lambda exponent: 10.0**exponent)


@given(variances)
def test_even_moments(q) -> None:
    assert expectation(lambda x: x**2, q) == pytest.approx(q, rel=1e-11)
    assert expectation(lambda x: x**6, q) == pytest.approx(15 * q**3, rel=1e-11)
    assert abs(expectation(lambda x: x**3, q)) <= 1e-11 * q**1.5


@given(variances, st.floats(-3, 3))
def test_a_step_anywhere_with_and_without_being_told(q, where) -> None:
    share = float(normal_cdf(np.array([-where / math.sqrt(q)]))[0])
    told = expectation(lambda x: (x > where) * 1.0, q, kinks=(where,))
    untold = expectation(lambda x: (x > where) * 1.0, q)
    assert told == pytest.approx(share, rel=1e-10, abs=1e-12)
    assert untold == pytest.approx(share, abs=1e-3)


@given(variances)
def test_a_bump_that_is_narrow_beside_the_gaussian(q) -> None:
    """E[exp(-z^2 / 2)] = 1 / sqrt(1 + q)."""
    assert expectation(lambda x: np.exp(-(x**2) / 2), q) == pytest.approx((1 + q) ** -0.5, rel=1e-11)


def test_tanh_at_large_q_where_gauss_hermite_fails() -> None:
    a_prime = nonlinearity("tanh").a_prime
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    hermite = float(weights @ a_prime(10 * nodes) ** 2 / math.sqrt(2 * math.pi))
    fine = np.linspace(-40, 40, 400_001)  # the trapezoid rule converges geometrically here
    exact = float(np.sum(a_prime(fine) ** 2 * np.exp(-(fine**2) / 200)) * 2e-4 / math.sqrt(200 * math.pi))
    assert expectation(lambda x: a_prime(x) ** 2, 100.0) == pytest.approx(exact, rel=1e-11)
    assert abs(hermite / exact - 1) > 0.9


@given(st.floats(0.0, 5.0))
def test_growing_functions(q) -> None:
    assert expectation(np.exp, q) == pytest.approx(math.exp(q / 2), rel=1e-11)


@given(variances, st.floats(-1, 1))
def test_pairs_of_relu_are_the_arc_cosine_kernel(q, c) -> None:
    """Cho & Saul, Kernel methods for deep learning (2009), eq. 3-6."""
    relu = nonlinearity("relu")
    angle = math.acos(c)
    exact = q * (math.sin(angle) + (math.pi - angle) * c) / (2 * math.pi)
    assert pair_expectation(relu.a, relu.a, q, c, relu.kinks) == pytest.approx(exact, rel=1e-8, abs=1e-9 * q)
    exact_slope = (math.pi - angle) / (2 * math.pi)
    slope = pair_expectation(relu.a_prime, relu.a_prime, 1.0, c, relu.kinks)
    assert slope == pytest.approx(exact_slope, abs=1e-8)


@given(st.floats(-3, 3).map(lambda exponent: 10.0**exponent), st.floats(-1, 1))
def test_pairs_of_erf(q, c) -> None:
    """Williams, Computing with infinite networks (1997): 2/pi asin(2 q c / (1 + 2 q))."""
    erf = nonlinearity("erf")
    exact = 2 / math.pi * math.asin(2 * q * c / (1 + 2 * q))
    assert pair_expectation(erf.a, erf.a, q, c) == pytest.approx(exact, abs=1e-8)


def test_the_point_mass() -> None:
    assert expectation(lambda x: x + 3, 0.0) == 3.0


@pytest.mark.parametrize("q", [-1.0, math.nan, math.inf])
def test_bad_variances_are_refused(q) -> None:
    with pytest.raises(ValueError, match="variance q must be finite"):
        expectation(lambda x: x, q)


def test_bad_functions_and_correlations_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        expectation(np.log, 1.0)
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        pair_expectation(np.tanh, np.tanh, 1.0, 1.5)
