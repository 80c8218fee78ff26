"""Two states that share a weight and take turns: an average that forgets, complex numbers, streams."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import gradtrace
from gradtrace.records.vocabulary import Cause, Severity, Symptom


class Average(nn.Module):
    """An average over time that forgets, as in RWKV: exp(k) v and exp(k) are summed side by side, both decaying."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rate = nn.Parameter(torch.full((8,), math.log(-math.log(decay)), dtype=torch.float64))
        self.key, self.value, self.head = (nn.Linear(8, 8).double() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        keep = torch.exp(-torch.exp(self.rate))
        total = count = torch.zeros_like(x[:, 0])
        for step in range(x.shape[1]):
            weight = torch.exp(self.key(x[:, step]))
            total, count = keep * total + weight * self.value(x[:, step]), keep * count + weight
        return self.head(total / count)


class Waves(nn.Module):
    """A state of complex numbers, written in reals: each part of it is turned into both."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.angle = nn.Parameter(torch.rand(8, dtype=torch.float64))
        self.fed, self.head = (nn.Linear(8, 8).double() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        cos, sin = torch.cos(self.angle), torch.sin(self.angle)
        real = imaginary = torch.zeros_like(x[:, 0])
        for step in range(x.shape[1]):
            real, imaginary = cos * real - sin * imaginary + self.fed(x[:, step]), cos * imaginary + sin * real
        return self.head(real)


class Streams(nn.Module):
    """Two sequences side by side, with one weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.Linear(8, 8).double()

    def forward(self, x: Tensor) -> Tensor:
        left = right = torch.zeros_like(x[:, 0])
        for step in range(x.shape[1]):
            left = torch.tanh(self.cell(left) + x[:, step])
            right = torch.tanh(self.cell(right) - 2.0 * x[:, step])
        return left + right


def _sequence(length: int = 24) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(16, length, 8, dtype=torch.float64)


def _square(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x) - x[:, 0]).square().mean()


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_two_states_of_one_decay(decay: float) -> None:
    diagnosis = gradtrace.check(Average(decay), _square, [_sequence()])
    assert diagnosis.through_time is not None
    (chain,) = diagnosis.through_time.chains
    assert chain.num_steps >= 22
    early, late = chain.states[2], chain.states[chain.span[1] - 2]
    steps = chain.span[1] - 4
    assert early / late == pytest.approx(decay**steps, rel=1e-6)
    loud = [(f.symptom, f.cause) for f in diagnosis.findings if f.severity is not Severity.INFO]
    assert loud == ([(Symptom.VANISHING, Cause.RECURRENT_CONTRACTION)] if decay < 0.5 else [])


@pytest.mark.parametrize("make", [Waves, Streams])
def test_parts_and_streams_are_found(make: type[nn.Module]) -> None:
    record = gradtrace.through_time(make(), _square, _sequence())
    assert record.chains
    assert all(chain.num_steps >= 22 for chain in record.chains)
