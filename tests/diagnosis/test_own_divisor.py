"""A divisor that is made from what it divides: where it is flat, the gradient goes past it by the dividend."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradtrace
from gradtrace.records.vocabulary import Severity, Symptom


class Ball(nn.Module):
    """Points that are drawn back to the unit ball, or nothing but how far out they are."""

    def __init__(self, points: bool) -> None:
        super().__init__()
        self.table, self.points = nn.Embedding(30, 4), points
        nn.init.normal_(self.table.weight, std=0.1)

    def forward(self, index: Tensor) -> Tensor:
        z = self.table(index)
        size = z.norm(dim=-1, keepdim=True).clamp(min=1.0)
        return (z / size if self.points else z.detach() / size).sum(-1)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("points", "ill"), [(True, False), (False, True)])
def test_a_flat_divisor_of_its_own(points: bool, ill: bool) -> None:
    torch.manual_seed(0)
    batches = [(torch.randint(0, 30, (128,)), torch.rand(128)) for _ in range(3)]
    model = Ball(points)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    loss_fn = lambda m, b: F.mse_loss(m(b[0]), b[1])  # noqa: E731
    found = gradtrace.check(model, loss_fn, batches, optimizer=optimizer, steps=10).findings
    loud = {f.symptom for f in found if f.severity is not Severity.INFO}
    assert bool(loud & {Symptom.SATURATED, Symptom.LOSS_SATURATED, Symptom.VANISHING, Symptom.DISCONNECTED}) is ill
