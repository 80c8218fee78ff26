"""What the loss is computed from by value: numbers that go on without the tape, and shapes that are none."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace

SHAPES = {
    "ones_like": torch.ones_like,
    "randn_like": torch.randn_like,
    "full_like": lambda x: torch.full_like(x, 2.0),
    "new_zeros": lambda x: x.new_zeros(x.shape),
}
NUMBERS = {"detach": torch.Tensor.detach, "data": lambda x: x.data, "sign": lambda x: (x > 0).float()}


class Gated(nn.Module):
    """Its second layer is used for what `make` makes of it alone."""

    def __init__(self, make):
        super().__init__()
        self.used, self.asked, self.out, self.make = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4), make

    def forward(self, x):
        hidden = self.used(x).relu()
        return self.out(hidden * (1.0 + self.make(self.asked(hidden))))


def found(make):
    torch.manual_seed(0)
    batch = torch.randn(32, 8), torch.randint(0, 4, (32,))
    diagnosis = gradtrace.check(Gated(make), lambda model, b: F.cross_entropy(model(b[0]), b[1]), [batch])
    return diagnosis.traces[0], [f for f in diagnosis.findings if f.symptom == "disconnected"]


@pytest.mark.parametrize("make", SHAPES.values(), ids=SHAPES)
def test_what_has_its_shape_alone_is_not_computed_from_it(make):
    trace, (finding,) = found(make)
    assert finding.severity == "info"
    assert "the loss does not depend on 2 parameters" in finding.message
    assert trace.severed == ()


@pytest.mark.parametrize("make", NUMBERS.values(), ids=NUMBERS)
def test_what_has_its_numbers_is(make):
    trace, (finding,) = found(make)
    assert finding.severity == "critical"
    assert "The loss depends on 2 parameters" in finding.message
    assert len(trace.severed) == 1


def test_the_number_that_fills_it_is_one_of_its_own():
    def filled(x):
        return torch.full_like(x, x.detach().mean())

    trace, (finding,) = found(filled)
    assert finding.severity == "critical"
    assert any("detach" in text for text in trace.severed)
