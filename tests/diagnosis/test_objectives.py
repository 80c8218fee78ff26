"""Of how many terms is a known loss the mean? As many share the gradient that arrives at the output."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradtrace
from gradtrace.diagnosis.objectives import num_terms
from gradtrace.diagnosis.scene import make_scene
from gradtrace.records.exhibit import Exhibit

LOSSES: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "each entry": (lambda y: F.mse_loss(y, torch.rand(8, 12)), 96),
    "each entry, of a binary one": (lambda y: F.binary_cross_entropy_with_logits(y, torch.rand(8, 12)), 96),
    "scores of classes": (lambda y: F.cross_entropy(y, torch.arange(8) % 12), 8),
    "scores at places": (lambda y: F.cross_entropy(y.view(8, 4, 3), torch.arange(24).view(8, 3) % 4), 24),
    "of no known loss": (lambda y: (y.exp() * y.sin()).mean(), 8),
}


@pytest.mark.parametrize("name", list(LOSSES))
def test_terms_of_a_mean(name: str) -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(5, 12), torch.randn(8, 5)
    loss, num = LOSSES[name]
    (view,) = make_scene(Exhibit((gradtrace.trace(model, lambda m, b: loss(m(b)), x),))).views
    assert num_terms(view, 96) == num


@pytest.mark.parametrize("size", [4, 64])
def test_an_image_is_as_flat_as_its_pixels_however_many_they_are(size: int) -> None:
    """Outputs that leak: a hundredth of the slope, and a loss that a step of their own scale changes by percents."""
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 1, 3, padding=1)
    with torch.no_grad():
        layer.bias.fill_(-2.0)
    model = nn.Sequential(layer, nn.LeakyReLU(0.03))
    images = torch.where(torch.rand(8, 1, size, size) < 0.5, 0.0, 1.0)
    found = gradtrace.check(model, lambda m, b: F.binary_cross_entropy_with_logits(m(b), b), [images, images]).findings
    assert not [f for f in found if f.code == "GT716"]
