"""A gradient that vanishes in a training that learns is a remark; where it stays at a constant it is ill."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.diagnosis.timeline.test_recovery import lost
from tests.diagnosis.timeline.test_traces import run_with
from torch import Tensor, nn
from torch.nn import functional as F

import gradtrace
from gradtrace.diagnosis.timeline.learnt import beside_constant
from gradtrace.diagnosis.timeline.traces import in_time
from gradtrace.monitor.watch import Watch
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Severity, Symptom

FALLS, RISES = np.linspace(2.0, 0.1, 400), np.linspace(0.1, 2.0, 400)
CRITICAL, WARNING, INFO = Severity.CRITICAL, Severity.WARNING, Severity.INFO


@pytest.mark.parametrize(
    ("share", "was", "severity", "said"),
    [
        (0.09, CRITICAL, INFO, "this data is learnt"),
        (0.11, CRITICAL, WARNING, "learns without them"),
        (0.49, WARNING, INFO, "this data is learnt"),
        (0.51, WARNING, WARNING, ""),
        (0.51, CRITICAL, CRITICAL, ""),
        (0.91, CRITICAL, CRITICAL, "nothing of the data is learnt yet"),
        (float("nan"), CRITICAL, CRITICAL, ""),
    ],
)
def test_by_how_far_the_loss_is_below_that_of_a_constant(
    share: float, was: Severity, severity: Severity, said: str
) -> None:
    found = replace(lost(), severity=was)
    told = beside_constant(found, run_with(FALLS), share)
    assert told.severity is severity
    assert said in told.message
    assert (told == found) == (not said)
    assert beside_constant(found, run_with(RISES), share) == found


def test_a_loss_that_fell_to_that_of_a_constant_has_learnt_nothing() -> None:
    """From a hundred to two, say, where two is what a constant gets."""
    run, found = run_with(np.maximum(100.0 * np.exp(-np.arange(400) / 10.0), 2.0)), replace(lost(), severity=WARNING)
    found = replace(found, step=0)
    assert in_time(found, run, [0], []).severity is INFO
    assert in_time(found, run, [0], [], is_no_better=True).severity is WARNING


class DeepAndWide(nn.Module):
    """Eight sigmoids in a row; where it is `wide`, the last layer sees the data as well."""

    def __init__(self, *, wide: bool) -> None:
        super().__init__()
        sizes = [8] + 7 * [16]
        self.deep = nn.Sequential(*(m for n in sizes for m in (nn.Linear(n, 16), nn.Sigmoid())))
        self.wide, self.head = wide, nn.Linear(24 if wide else 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        deep = self.deep(x)
        return self.head(torch.cat([x, deep], 1) if self.wide else deep)  # type: ignore[no-any-return]


def trained(model: nn.Module) -> Watch:
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with gradtrace.watch(model, optimizer, budget=10.0, every=20) as watch:
        for _ in range(300):
            x = torch.randn(128, 8)
            optimizer.zero_grad()
            F.cross_entropy(model(x), (x[:, 0] > x[:, 1]).long()).backward()
            optimizer.step()
    return watch


def vanishing(watch: Watch) -> list[Finding]:
    return [f for f in watch.diagnosis.findings if f.symptom is Symptom.VANISHING]


def test_deep_layers_that_the_data_goes_past() -> None:
    torch.manual_seed(0)
    (found,) = vanishing(trained(DeepAndWide(wide=True)))
    assert found.severity is INFO
    assert "this data is learnt" in found.message


def test_deep_layers_that_it_must_go_through() -> None:
    torch.manual_seed(0)
    (found,) = vanishing(trained(DeepAndWide(wide=False)))
    assert found.severity is CRITICAL
    assert "nothing of the data is learnt yet" in found.message


def test_the_losses_since_the_latest_trace_know_whether_the_data_is_learnt() -> None:
    """Traced while it was at a constant's, and trained on since."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    with gradtrace.watch(model, optimizer, budget=10.0, every=110) as watch:
        for step in range(216):
            optimizer.param_groups[0]["lr"] = 1e-6 if step <= 112 else 0.5
            x = torch.randn(512, 8)
            optimizer.zero_grad()
            F.cross_entropy(model(x), (x[:, 0] > x[:, 1]).long()).backward()
            optimizer.step()
    assert not [text for text in watch.diagnosis.refusals if "whether the data is learnt" in text]
