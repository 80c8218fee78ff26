"""What grows at divisions is theirs where zero lies among the divisors, and not the sums' in front of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.records.vocabulary import Cause, Severity, Symptom


class LinearAttention(nn.Module):
    """phi(q) (phi(k)' v) / phi(q) sum phi(k) with phi = elu + `shift`: one makes phi positive, and so the divisor."""

    def __init__(self, shift: float, reciprocal: bool) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.shift, self.reciprocal = shift, reciprocal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        q, k = nn.functional.elu(q) + self.shift, nn.functional.elu(k) + self.shift
        divisor = (q * k.sum(-2, keepdim=True)).sum(-1, keepdim=True)
        weighted = q @ (k.transpose(-1, -2) @ v)
        return x + self.out(weighted * (1.0 / divisor) if self.reciprocal else weighted / divisor)


class Net(nn.Module):
    def __init__(self, **how: Any) -> None:
        super().__init__()
        self.read, self.positions = nn.Linear(8, 32), nn.Parameter(torch.randn(8, 32) * 0.5)
        self.blocks, self.head = nn.ModuleList(LinearAttention(**how) for _ in range(4)), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.read(x) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def loss(model: nn.Module, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize("reciprocal", [False, True])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_divisors_on_both_sides_of_zero(shift: float, reciprocal: bool) -> None:
    torch.manual_seed(0)
    batches = [(torch.randn(64, 8, 8), torch.randint(0, 10, (64,))) for _ in range(2)]
    found = gradtrace.check(Net(shift=shift, reciprocal=reciprocal), loss, batches).findings
    loud = [f for f in found if f.severity is not Severity.INFO]
    if shift:
        assert loud == []
        return
    assert (loud[0].symptom, loud[0].cause) == (Symptom.EXPLODING, Cause.UNSAFE_OP)
    assert set(loud[0].where) <= {f"blocks.{i}.qkv" for i in range(4)}
    assert "test_divisions.py" in loud[0].message
    assert "divisor away from zero" in loud[0].remedies[0].title


def test_the_range_of_divisors_is_in_the_trace_where_there_are_several() -> None:
    layer = nn.Linear(3, 3)
    divided = lambda model, x: (model(x) / (x.square() + 2) / model(x).norm() / 3).sum()  # noqa: E731
    trace = gradtrace.trace(layer, divided, torch.tensor([[0.0, 1.0, 2.0]]))
    assert [op.divisor for op in trace.ops if op.divisor is not None] == [(2.0, 6.0)]
