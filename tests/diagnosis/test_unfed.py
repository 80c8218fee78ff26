"""Networks that nothing of the data comes to, before the first weight or behind weights of zeros."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradtrace
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom


def loud(model: nn.Module, inputs: Tensor) -> list[Finding]:
    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    batches = [(inputs, torch.randint(0, 4, (len(inputs),))) for _ in range(3)]
    return [f for f in gradtrace.check(model, loss_fn, batches).findings if f.severity is not Severity.INFO]


class Hats(nn.Module):
    """Hat functions on a grid from -1 to 1, as splines have, and weights of them."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(1 - (x[..., None] - torch.linspace(-1, 1, 8)).abs() / 0.3).flatten(1)


@pytest.mark.parametrize(("shift", "ill"), [(10.0, True), (0.0, False)])
def test_data_outside_of_the_grid(shift: float, ill: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Hats(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 4))
    found = [f for f in loud(model, shift + torch.rand(64, 16)) if f.symptom is Symptom.DISCONNECTED]
    assert [(f.cause, f.where) for f in found] == ([(Cause.INPUT_SCALE, ("1",))] if ill else [])


@pytest.mark.parametrize(("size", "ill"), [(1, False), (7, False), (8, True)])
def test_a_few_examples_may_be_zeros(size: int, ill: bool) -> None:
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 4))
    found = [f for f in loud(model, torch.zeros(size, 2)) if f.symptom is Symptom.DISCONNECTED]
    assert bool(found) is ill


class Counter(nn.Module):
    """A recurrence without an input, from a state of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros_like(x)
        for _ in range(4):
            h = torch.tanh(self.cell(h))
        return self.head(h)  # type: ignore[no-any-return]


def test_a_state_that_starts_at_zero_is_fed_by_its_own_steps() -> None:
    torch.manual_seed(0)
    found = loud(Counter(), torch.randn(64, 16))
    assert not [f for f in found if f.symptom is Symptom.DISCONNECTED]


@pytest.mark.parametrize(("zeros", "ill"), [((0, 2, 4), True), ((4,), False), ((), False)])
def test_zeros_that_the_data_do_not_come_past_are_not_by_design(zeros: tuple[int, ...], ill: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4))
    for layer in (model[i] for i in zeros):
        nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
    found = loud(model, torch.randn(64, 16))
    assert [(f.symptom, f.cause) for f in found] == ([(Symptom.VANISHING, Cause.SMALL_WEIGHTS)] if ill else [])
