"""What the weights of a first layer feel beside what one use of them received: all uses, and the scale of the data."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradtrace
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom


def loud(model: nn.Module, size: float = 1.0) -> list[Finding]:
    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    batches = [(size * torch.randn(64, 16), torch.randint(0, 4, (64,))) for _ in range(3)]
    return [f for f in gradtrace.check(model, loss_fn, batches).findings if f.severity is not Severity.INFO]


class Flow(nn.Module):
    """A differential equation from 0 to 1 in so many steps of Euler's; without steps to scale by, a map iterated."""

    def __init__(self, num_steps: int, kept: float) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
        self.head, self.num_steps, self.kept = nn.Linear(16, 4), num_steps, kept

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.num_steps):
            x = self.kept * x + self.field(x) / self.num_steps
        return self.head(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("kept", "ill"), [(1.0, False), (0.5, True)])
def test_the_steps_of_an_equation_add_up(kept: float, ill: bool) -> None:
    torch.manual_seed(0)
    found = loud(Flow(60, kept))
    assert [f.symptom for f in found] == ([Symptom.VANISHING] if ill else [])


class Unit(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / (x.norm(dim=-1, keepdim=True) + 1e-3)


@pytest.mark.parametrize(("size", "gain", "ill"), [(300.0, 1.0, False), (1.0, 1.0, False), (1.0, 3000.0, True)])
def test_a_norm_takes_back_the_scale_of_data_not_that_of_weights(size: float, gain: float, ill: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), Unit(), nn.Linear(64, 4))
    with torch.no_grad():
        model[0].weight *= gain
    found = loud(model, size)
    assert [(f.symptom, f.cause) for f in found] == ([(Symptom.VANISHING, Cause.LARGE_WEIGHTS)] if ill else [])
