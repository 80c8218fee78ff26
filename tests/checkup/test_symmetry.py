"""Units that start as copies of one another: told where they stay so, and nowhere else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradtrace
from gradtrace.checkup.symmetry import copied_units
from gradtrace.records.vocabulary import Cause, Severity, Symptom

Batch = tuple[torch.Tensor, torch.Tensor]


def batch() -> Batch:
    return torch.randn(32, 6), torch.randint(0, 3, (32,))


def loss_fn(model: nn.Module, batch: Batch) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def network(fill: float | None) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))
    for layer in model[::2] if fill is not None else ():
        nn.init.constant_(layer.weight, fill)  # type: ignore[arg-type]
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return model


@pytest.mark.parametrize("fill", [0.1, -1.0, None])
def test_constant_weights_are_told_with_their_layers(fill: float | None) -> None:
    model = network(fill)
    found = [f for f in gradtrace.check(model, loss_fn, [batch()]).findings if "copies of one another" in f.message]
    assert bool(found) is (fill is not None)
    for finding in found:
        assert (finding.symptom, finding.cause) == (Symptom.VANISHING, Cause.SMALL_WEIGHTS)
        assert (finding.where, finding.severity) == (("0", "2"), Severity.WARNING)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_they_do_stay_copies() -> None:
    model = network(0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(50):
        optimizer.zero_grad()
        loss_fn(model, batch()).backward()
        optimizer.step()
    weight = next(model.parameters()).detach()
    assert float((weight - weight[:1]).abs().max()) <= 1e-4 * float(weight.abs().max())


class Branch(nn.Module):
    """Starts as nothing, by a factor of zero; its table of biases starts at zero, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.factor, self.table = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(4, 8))
        nn.init.zeros_(self.head.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        out: torch.Tensor = self.head(h + self.factor * self.table.mean(0))
        return out


def test_what_starts_at_zero_by_design_is_no_copy() -> None:
    torch.manual_seed(0)
    assert copied_units(Branch(), loss_fn, batch()) == ()


def test_a_model_that_cannot_be_copied_is_left_alone() -> None:
    class Locked(nn.Sequential):
        def __deepcopy__(self, memo: object) -> nn.Module:
            raise TypeError("a lock")

    assert copied_units(Locked(*network(0.1)), loss_fn, batch()) == ()
