"""Examples that look alike to the last layer of a deep plain stack are told of where its loss stays at a constant's."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.records.vocabulary import Cause, Severity, Symptom


class Block(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.3 * torch.relu(self.layer(x))


def stack(depth: int, kind: str, width: int = 8) -> nn.Sequential:
    """Convolutions drawn as He et al. (2015) say, for which the gradient keeps its size, and a mean over places."""
    layers: list[nn.Module] = [nn.Conv2d(1, width, 3, padding=1), nn.ReLU()]
    for _ in range(depth):
        layer = nn.Conv2d(width, width, 3, padding=1)
        norm = [nn.BatchNorm2d(width)] if kind == "norms" else []
        layers += [Block(layer)] if kind == "skips" else [layer, *norm, nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 4))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return model


def diagnosis(depth: int, kind: str = "plain", *, noise: bool = False, seed: int = 0) -> gradtrace.Diagnosis:
    torch.manual_seed(seed)
    model = stack(depth, kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    with gradtrace.watch(model, optimizer, budget=10.0, every=50) as watch:
        for _ in range(120):
            x = torch.rand(16, 1, 6, 6)
            y = torch.randint(0, 4, (16,)) if noise else F.adaptive_avg_pool2d(x, 2).flatten(1).argmax(1)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return watch.diagnosis


def test_a_deep_plain_stack() -> None:
    found = diagnosis(24)
    (told,) = [f for f in found.findings if f.severity is not Severity.INFO]
    assert (told.symptom, told.cause) == (Symptom.VANISHING, Cause.DEPTH_WITHOUT_SKIP)
    assert "examples look alike to the last layer" in told.message
    numbers = {e.name: e.value for e in told.evidence}
    assert numbers["what differs between examples, first layer"] == pytest.approx(0.5, abs=0.1)
    assert numbers["what differs between examples, last layer"] < 0.03


@pytest.mark.parametrize(("depth", "kind"), [(2, "plain"), (8, "norms"), (8, "skips")])
def test_noise_leaves_a_loss_at_a_constant_too(depth: int, kind: str) -> None:
    found = diagnosis(depth, kind, noise=True)
    assert not [f for f in found.findings if f.cause is Cause.DEPTH_WITHOUT_SKIP]
    assert [text for text in found.refusals if "whether the data is learnt" in text]
