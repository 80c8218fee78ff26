"""A forward pass that overflows: by weights that are too large, or by sums that nothing holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from gradtrace.records.vocabulary import Cause, Symptom

from .networks import batches
from .test_learning import findings, loud

if TYPE_CHECKING:
    from torch import Tensor


class Gated(nn.Module):
    """x + down(silu(gate(x)) * up(x)) with weights that keep a signal's scale; the product squares it."""

    def __init__(self, norm: bool, gain: float) -> None:
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(16, 16, bias=False) for _ in range(3))
        for layer in (self.gate, self.up, self.down):
            nn.init.normal_(layer.weight, std=gain / 4.0)
        self.norm = nn.LayerNorm(16) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        return x + self.down(nn.functional.silu(self.gate(h)) * self.up(h))


def _blocks(norm: bool, gain: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(Gated(norm, gain) for _ in range(14)), nn.LayerNorm(16), nn.Linear(16, 4))


@pytest.mark.parametrize(
    ("norm", "gain", "causes"),
    [(False, 1.0, [Cause.RESIDUAL_GROWTH]), (True, 1.0, []), (False, 10.0, [Cause.LARGE_WEIGHTS])],
    ids=["bare", "normed", "large"],
)
def test_sums_of_products_overflow_with_weights_of_usual_size(norm: bool, gain: float, causes: list[Cause]) -> None:
    found = loud(findings(_blocks(norm, gain), data=batches()))
    assert found == [(Symptom.NONFINITE, cause) for cause in causes]


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_a_table_of_usual_size_is_not_to_blame(scale: float) -> None:
    torch.manual_seed(0)
    table = nn.Embedding(8, 16)
    with torch.no_grad():
        table.weight.mul_(scale)
    data = [(torch.arange(64) % 8, y) for _, y in batches()]
    found = loud(findings(nn.Sequential(table, _blocks(False)), data=data))
    assert found == [(Symptom.NONFINITE, Cause.RESIDUAL_GROWTH if scale == 1.0 else Cause.LARGE_WEIGHTS)]


def test_large_data_overflow_by_themselves() -> None:
    data = [(x * 1e30, y) for x, y in batches()]
    assert (Symptom.NONFINITE, Cause.RESIDUAL_GROWTH) not in loud(findings(_blocks(False), data=data))
