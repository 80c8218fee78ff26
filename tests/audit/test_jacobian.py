"""Singular values of products of matrices, against closed forms; estimates against the exact ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gradtrace.audit.draw import orthogonal
from gradtrace.audit.jacobian import jacobian, spectrum
from gradtrace.errors import InputError


def product(weights):
    def function(x):
        for W in weights:
            x = W @ x
        return x

    return function


@pytest.mark.parametrize("depth", [1, 3])
def test_gaussian_linear_networks_have_the_largest_value_of_random_matrix_theory(depth) -> None:
    """Largest squared singular value (L+1)^(L+1) / L^L, mean 1 (Pennington et al. 2017, section 2)."""
    n = 400
    found = spectrum(product([torch.randn(n, n) / math.sqrt(n) for _ in range(depth)]), torch.randn(n))
    assert found.largest**2 == pytest.approx((depth + 1) ** (depth + 1) / depth**depth, rel=0.08)
    assert found.mean_square == pytest.approx(1.0, rel=0.05)


def test_orthogonal_networks_have_them_all_equal() -> None:
    weights = [orthogonal(torch.empty(64, 64), None) for _ in range(5)]
    found = spectrum(product(weights), torch.randn(64))
    assert found.condition == pytest.approx(1.0, abs=1e-4)


def test_the_estimates_are_right_within_their_error() -> None:
    model, x = nn.Sequential(nn.Linear(60, 40), nn.Tanh(), nn.Linear(40, 30)), torch.randn(60)
    whole = spectrum(model, x)
    guess = spectrum(model, x, exact=False, num_probes=200, num_steps=300, smallest=True)
    assert abs(guess.mean_square - whole.mean_square) < 4 * guess.standard_error
    assert guess.largest == pytest.approx(whole.largest, rel=1e-3)
    assert whole.smallest * 0.99 <= guess.smallest < 3 * whole.smallest  # from above, slowly
    assert len(whole.singular_values) == 30


def test_the_mean_square_is_the_predicted_growth() -> None:
    import gradtrace

    torch.manual_seed(3)
    model = nn.Sequential(*[m for _ in range(4) for m in (nn.Linear(256, 256), nn.ReLU())])
    inputs = torch.randn(16, 256)
    audit = gradtrace.predict(model, inputs)
    mean = sum(spectrum(model, x).mean_square for x in inputs) / len(inputs)
    assert 0.5 * math.log10(mean) == pytest.approx(audit.decades, abs=0.06)


def test_the_whole_matrix() -> None:
    x = torch.randn(2, 3)
    J = jacobian(lambda x: (x**2).sum(1), x)
    assert torch.allclose(J, torch.block_diag(2 * x[0], 2 * x[1]))


def test_what_depends_on_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="depends on its input"):
        spectrum(lambda x: x.detach(), torch.randn(3))
