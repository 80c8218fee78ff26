"""What gates take of a gradient is told apart from what weights do."""

from __future__ import annotations

import io
import math

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import gradtrace
from gradtrace.casebook import CASES
from gradtrace.diagnosis.gate import gate_decades, is_gated
from gradtrace.measure.path import Paths
from gradtrace.report.tables import picture
from gradtrace.report.terminal import show_trace


class Carry(nn.Module):
    """C <- sigmoid(b) c for 20 steps: nothing but gates, each of the same value."""

    def __init__(self, gate: float) -> None:
        super().__init__()
        self.first, self.gate = nn.Linear(4, 8), nn.Linear(4, 8)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, math.log(gate / (1.0 - gate)))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 4] -> [batch, 8]."""
        c = self.first(x)
        for _ in range(20):
            c = torch.sigmoid(self.gate(x)) * c
        return c


@pytest.mark.parametrize("gate", [0.5, 0.9])
def test_gates_take_the_logarithm_of_their_value(gate: float) -> None:
    torch.manual_seed(0)
    trace = gradtrace.trace(Carry(gate), lambda m, x: m(x).square().mean(), torch.randn(16, 4))
    paths = Paths(trace)
    (first,) = [op for op in trace.ops if "first.weight" in op.weights]
    assert gate_decades(trace, paths.path(first.index)) == pytest.approx(20 * math.log10(gate), rel=1e-3)


class Scaled(nn.Module):
    """Products that are none with a gate: with a number, a parameter, and what no bound holds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(4, 8), nn.Linear(4, 8), nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 4] -> [batch, 8]."""
        return 0.1 * self.scale * (self.a(x) * torch.relu(self.b(x)))


def test_other_products_are_none() -> None:
    trace = gradtrace.trace(Scaled(), lambda m, x: m(x).square().mean(), torch.randn(16, 4))
    assert not any(is_gated(op, trace) for op in trace.ops)
    assert picture(trace).gates == 0.0


def test_an_lstm_written_by_hand_is_told_of_its_gates() -> None:
    for name, ill in (("handwritten_lstm", True), ("contracting_loop", False)):
        setup = CASES[name].build()
        diagnosis = gradtrace.check(setup.model, setup.loss_fn, setup.batches, optimizer=setup.optimizer)
        codes = [remedy.code for finding in diagnosis.findings[:1] for remedy in finding.remedies]
        assert any("forget_gate.bias" in code for code in codes) is ill
        assert any("orthogonal_" in code for code in codes) is not ill
        console = Console(width=200, record=True, file=io.StringIO())
        show_trace(diagnosis.traces[0], console)
        assert ("products with gates -" in console.export_text()) is ill
