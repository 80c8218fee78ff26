"""Sentences that were not true once: each says now what is so."""

from __future__ import annotations

import io
import textwrap
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.remedies.unsafe import UNSAFE, remedy_of
from gradtrace.report.findings import code_lines
from gradtrace.report.tables import picture
from gradtrace.report.terminal import show


def shown(diagnosis):
    console = Console(file=io.StringIO(), width=100, color_system=None)
    show(diagnosis, console)
    return console.file.getvalue()


def test_as_many_steps_as_were_asked_for_and_updates_beside_gradients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    batches = [(torch.randn(16, 8), torch.randint(0, 4, (16,)))]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    options = {"optimizer": optimizer, "steps": 1}
    diagnosis = gradtrace.check(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), batches, **options)
    text = shown(diagnosis)
    assert diagnosis.num_steps == 1
    assert "Trained a copy for 1 step: " in text
    assert "|grad|/|W| update/|W|" in text
    first = next(update for update in diagnosis.updates if update.name == "0.weight")
    row = picture(diagnosis.traces[0], updates=diagnosis.updates).rows[-1]
    assert row.relative_update == first.update_norm / first.weight_norm
    assert 1e-3 < row.relative_update < 0.1  # Adam's first step moves each weight by its rate


def test_the_output_s_squashing_and_the_loss_cancel_each_other():
    """A network that is sure of itself: the gradient at its output is large, the sigmoid takes it back."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())
    with torch.no_grad():
        model[2].bias.fill_(15.0)
    diagnosis = gradtrace.check(
        model, lambda m, x: F.binary_cross_entropy(m(x), torch.ones(32, 1)), [torch.randn(32, 4)]
    )
    table = picture(diagnosis.traces[0])
    assert table.rows[0].first == "loss"
    assert table.late < table.rows[0].after - 4  # what the last layer receives lies decades below the output's gradient
    assert abs(table.early_decades) < 1.5


def unsafe(op):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            distance = torch.relu(self.fc(x) - 100)
            return torch.sqrt(distance) if op == "sqrt" else torch.exp(distance + 1e4)

    torch.manual_seed(0)
    return gradtrace.check(Network(), lambda m, x: m(x).mean(), [torch.randn(8, 4)]).findings[0]


def test_the_remedy_is_for_the_op_and_the_name_at_hand():
    assert unsafe("sqrt").remedies[0].code == "torch.sqrt(distance.clamp_min(1e-12))"
    assert unsafe("exp").remedies[0].code.startswith("torch.exp((distance + 10000.0).clamp_max(80))")
    assert "sqrt (" in unsafe("sqrt").message
    assert unsafe("sqrt").code == "GT317"


@pytest.mark.parametrize("op", UNSAFE)
@pytest.mark.parametrize("operand", ["x", "model.scale", "distance + 1.0"])
def test_the_remedy_s_code_runs_and_keeps_doing_so_in_a_narrow_terminal(op, operand):
    remedy = remedy_of(op, operand)
    shown = "\n".join(map(str, code_lines(remedy.code.splitlines(), 80)))
    x = torch.full((4, 4), 0.5)
    names = {"a": x, "b": x, "mask": x > 1, "scores": x, "exponent": 0.5, "x": x, "distance": x}
    exec(textwrap.dedent(shown), {"torch": torch, "model": SimpleNamespace(scale=x)} | names)


def test_a_large_step_of_a_healthy_network_is_called_large():
    def check(lr):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        batches = [(torch.randn(16, 8), torch.randint(0, 4, (16,)))]
        optimizer = torch.optim.SGD(model.parameters(), lr)
        return shown(gradtrace.check(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), batches, optimizer=optimizer))

    usual, large = " ".join(check(0.01).split()), " ".join(check(0.9).split())
    assert "Healthy: " in usual
    assert "fine: up to 0.1);" in usual
    assert "Healthy: " in large
    assert "fine: up to 0.1; more is large, and no fault by itself);" in large


def test_a_range_of_one_number_is_that_number():
    text = shown(gradtrace.check(nn.Linear(8, 4), lambda m, x: m(x).square().mean(), [torch.randn(16, 8)]))
    (line,) = [line for line in text.splitlines() if line.startswith("Healthy: ")]
    assert " to " not in line


def test_nothing_is_said_of_a_rest_that_is_none():
    model = nn.Linear(8, 4).half()
    diagnosis = gradtrace.check(model, lambda m, x: m(x).float().mean() * 1e-8, [torch.randn(16, 8).half()])
    (finding,) = [one for one in diagnosis.findings if one.symptom == "underflow"]
    assert "100 % are exactly zero (" in finding.message
