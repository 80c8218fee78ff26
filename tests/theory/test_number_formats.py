"""What a number format and an optimizer make of small gradients: published arithmetic, checked on torch itself."""

from __future__ import annotations

import math

import pytest
import torch


def test_the_share_that_float16_flushes() -> None:
    """Of N(0, sigma^2) gradients, those under 2^-25 round to zero: erf(2^-25 / sigma sqrt 2); 0.2343 at 1e-7."""
    sigma = 1e-7
    assert math.erf(2**-25 / (sigma * math.sqrt(2))) == pytest.approx(0.2343, abs=1e-4)
    g = torch.randn(400_000, dtype=torch.float64) * sigma
    assert float((g.half() == 0).double().mean()) == pytest.approx(0.2343, abs=0.003)


@pytest.mark.parametrize("g", [1e-10, 1e-8, 1e-3])
def test_adams_first_step(g) -> None:
    """|step| / lr = g / (g + eps): whole as long as g is large beside eps (Kingma & Ba 2015, algorithm 1)."""
    w = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([w], lr=1e-3, eps=1e-8)
    w.grad = torch.full_like(w, g)
    optimizer.step()
    assert abs(float(w.detach())) / 1e-3 == pytest.approx(g / (g + 1e-8), rel=1e-6)
