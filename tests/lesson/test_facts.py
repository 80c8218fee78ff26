"""The numbers that theory gives the lesson, in closed form; its random numbers; its equations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradtrace.lesson.equations import mathml
from gradtrace.lesson.facts import NAMES, PYTORCH_SIGMA_W, facts
from gradtrace.lesson.generator import gaussians, uniforms


def test_the_sigmoid():
    sigmoid = facts("sigmoid")
    assert (sigmoid.most, sigmoid.at) == (0.25, 0.0)
    assert 0.25**sigmoid.layers_to_thousandth < 1e-3 < 0.25 ** (sigmoid.layers_to_thousandth - 1)
    a = 1 / (1 + math.exp(-sigmoid.high))
    assert a * (1 - a) == pytest.approx(0.05 * 0.25, rel=1e-9)
    assert sigmoid.low == pytest.approx(-sigmoid.high)


def test_the_others():
    assert facts("tanh").most == facts("relu").most == 1
    assert facts("gelu").most > 1
    assert facts("relu").slope_second == pytest.approx(0.5)
    assert facts("relu").critical == pytest.approx(math.sqrt(2))  # He et al. (2015)
    assert facts("tanh").critical == pytest.approx(1.0)
    assert math.isinf(facts("identity").layers_to_thousandth)


@pytest.mark.parametrize("name", NAMES)
def test_the_critical_scale_keeps_the_gradient(name):
    if facts(name).most <= 1:
        assert facts(name).gain(facts(name).critical) == pytest.approx(1.0, abs=1e-4)


def test_the_scale_of_pytorch():
    import torch

    weights = torch.nn.Linear(400, 400).weight.detach()
    assert float(weights.std()) * 20 == pytest.approx(PYTORCH_SIGMA_W, rel=0.01)


def test_the_random_numbers_are_uniform_and_normal_and_streams_differ():
    u = uniforms(3, 1, 100_000)
    assert 0 < u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    counts = np.histogram(u, bins=50, range=(0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 85.4  # chi squared, 49 degrees, 0.1 %
    z = gaussians(1, 4, 300, 300).ravel()
    assert abs(z.mean()) < 0.01
    assert z.var() == pytest.approx(1, abs=0.02)
    assert (z**4).mean() == pytest.approx(3, abs=0.1)
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(z, gaussians(1, 5, 300, 300).ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(z, gaussians(2, 4, 300, 300).ravel())[0, 1]) < 0.01


def test_equations_are_elements_and_nothing_else():
    assert mathml("sigma_w^2 < 3") == (
        "<math><mrow><msubsup><mi>σ</mi><mi>w</mi><mn>2</mn></msubsup><mo>&lt;</mo><mn>3</mn></mrow></math>"
    )
    assert "<munderover><mo>∏</mo>" in mathml("prod_{k=1}^{L} a'(k)", block=True)
    assert "<msqrt><mrow>" in mathml("sqrt{chi}")
    assert "<mfrac>" in mathml("frac{1}{2}")
    for text in ("a_{b", "a}"):
        with pytest.raises(ValueError, match="brace"):
            mathml(text)
