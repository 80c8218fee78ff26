"""Each rule's growth and signal against a random cotangent through the very module."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradtrace.audit.measurement import measure
from gradtrace.audit.propagate import propagate
from gradtrace.audit.recording import record
from gradtrace.audit.rules.table import RULES

VECTORS, IMAGES = (200, 64), (40, 16, 12, 12)


class Lambda(nn.Module):
    def __init__(self, function, *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x):
        return self.function(x, *self.parts)


LAYERS = [
    (nn.Linear(64, 200), VECTORS),
    (nn.Sequential(nn.Linear(64, 64), nn.GELU()), VECTORS),
    (nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(0.2, inplace=True)), VECTORS),
    (nn.Sequential(nn.Linear(64, 64), nn.Hardtanh(-0.5, 0.5)), VECTORS),
    (nn.Sequential(nn.Linear(64, 64), nn.PReLU()), VECTORS),
    (nn.Dropout(0.3), VECTORS),
    (nn.LayerNorm(64), VECTORS),
    (nn.RMSNorm(64), VECTORS),
    (nn.BatchNorm1d(64), VECTORS),
    (nn.BatchNorm1d(64).eval(), VECTORS),
    (nn.Conv2d(16, 32, 3, padding=1), IMAGES),
    (nn.Conv2d(16, 32, 3, stride=2, padding=1, groups=4), IMAGES),
    (nn.Conv2d(16, 16, 3, dilation=2, padding="same"), IMAGES),
    (nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular"), IMAGES),
    (nn.ConvTranspose2d(16, 24, 4, 2, 1), IMAGES),
    (nn.GroupNorm(4, 16), IMAGES),
    (nn.InstanceNorm2d(16), IMAGES),
    (nn.AvgPool2d(3, 2, 1), IMAGES),
    (nn.Sequential(nn.Conv2d(16, 64, 3), nn.ReLU(), nn.MaxPool2d(2)), IMAGES),
    (nn.AdaptiveAvgPool2d(1), IMAGES),
    (nn.Flatten(), IMAGES),
    (nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(8, 8, 3, padding=1)), IMAGES),
    (Lambda(lambda x: x * 0.5 + 1), VECTORS),
    (Lambda(lambda x: 1 - (-x / 3)), VECTORS),
    (Lambda(lambda x: x + x), VECTORS),
    (Lambda(lambda x, f: x + 0.3 * f(x), nn.Linear(64, 64)), VECTORS),
    (Lambda(lambda x: torch.cat((x[:, :20], x[:, 20:] * 2), 1)), VECTORS),
    (Lambda(lambda x: sum(part * (i + 1) for i, part in enumerate(x.chunk(4, 1)))), VECTORS),
    (Lambda(lambda x: x.mean((2, 3))), IMAGES),
    (Lambda(lambda x: F.pad(x, (1, 1))), IMAGES),
    (Lambda(lambda x: x.transpose(0, 1).reshape(64, 2, 100)[:, 1]), VECTORS),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda x: str(x).split("\n")[0][:40])
def test_growth_is_measured(layer, shape) -> None:
    x = torch.randn(shape)
    recording = record(layer, x, RULES)
    found = propagate(recording, 8)
    assert not found.unruled
    energies = measure(recording, 8)
    first = next(value.index for value in recording.values if value.consumers)
    predicted = math.log(found.gradients[first].energy)
    assert predicted == pytest.approx(math.log(energies[first]), abs=0.12)
    for value, signal in zip(recording.values, found.signals, strict=True):
        if value.producer is not None:
            assert signal.second == pytest.approx(value.measured.second, rel=0.2, abs=1e-3)


def test_borders_cost_less_where_little_lies() -> None:
    """Six padded convolutions of 6 x 6: signal and gradient thin out towards the border, per step within 5 %.

    As if both were even, each convolution would lose (1 - 1 / 9)^2 = 21 % at the border.
    """
    layers = [nn.Conv2d(64, 64, 3, padding=1, bias=False) for _ in range(6)]
    recording = record(nn.Sequential(*layers), torch.randn(32, 64, 6, 6), RULES)
    found, energies = propagate(recording, 8), measure(recording, 8)
    edges = [0, *[step.outputs[0] for step in recording.steps]]
    for above, below in zip(edges[1:], edges, strict=False):
        ratio = found.gradients[below].energy / found.gradients[above].energy
        assert ratio == pytest.approx(energies[below] / energies[above], rel=0.06)
    last = recording.values[edges[-1]].measured.second
    assert found.signals[edges[-1]].second == pytest.approx(last, rel=0.15)


def test_a_function_without_a_rule_is_measured_and_the_rest_predicted() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Softmax(-1), nn.Linear(64, 64), nn.Tanh())
    recording = record(model, torch.randn(VECTORS), RULES)
    found = propagate(recording, 4)
    assert [recording.steps[i].function for i in found.unruled] == ["softmax"]
    assert math.log(found.gradients[0].energy) == pytest.approx(math.log(measure(recording, 8)[0]), abs=0.2)


def test_a_product_of_two_values_is_measured() -> None:
    gate = Lambda(lambda x, f, g: torch.sigmoid(f(x)) * g(x), nn.Linear(64, 64), nn.Linear(64, 64))
    recording = record(gate, torch.randn(VECTORS), RULES)
    found = propagate(recording, 4)
    assert [recording.steps[i].function for i in found.unruled] == ["mul"]
    assert math.log(found.gradients[0].energy) == pytest.approx(math.log(measure(recording, 8)[0]), abs=0.2)


def test_a_parametrised_weight_is_looked_through() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(64, 64))
    recording = record(layer, torch.randn(VECTORS), RULES)
    assert [step.function for step in recording.steps] == ["linear"]
    assert not recording.hidden


def test_a_custom_function_is_named_as_not_seen() -> None:
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * 2

    model = Lambda(lambda x, f, g: g(Twice.apply(f(x))), nn.Linear(64, 64), nn.Linear(64, 8))
    recording = record(model, torch.randn(VECTORS), RULES)
    assert len(recording.hidden) == 1


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_a_spectral_norm_is_looked_through() -> None:
    """Its power iteration makes vectors of its own, without gradient and not of the input."""
    layers = [m for _ in range(4) for m in (nn.utils.parametrizations.spectral_norm(nn.Linear(64, 64)), nn.ReLU())]
    recording = record(nn.Sequential(*layers), torch.randn(VECTORS), RULES)
    assert [step.function for step in recording.steps] == ["linear", "relu"] * 4
    found = propagate(recording, 4)
    assert math.log(found.gradients[0].energy) == pytest.approx(math.log(measure(recording, 8)[0]), abs=0.3)
