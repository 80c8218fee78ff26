"""What is summed: neighbours, one map's steps, what two networks make; each an ill network and its healthy twin."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradtrace
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom

from .networks import batches, cross_entropy


class Graph(nn.Module):
    """Messages of 40 neighbours a node, summed or averaged, and the node's own, in six layers."""

    def __init__(self, *, mean: bool) -> None:
        super().__init__()
        self.own = nn.ModuleList(nn.Linear(16, 16) for _ in range(6))
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(6))
        for layer in self.own:
            nn.init.kaiming_normal_(layer.weight)  # type: ignore[arg-type]
        self.head = nn.Linear(16, 4)
        self.sources = torch.randint(0, 64, (64 * 40,))
        self.targets = torch.arange(64).repeat_interleave(40)
        self.count = 40 if mean else 1

    def forward(self, x: Tensor) -> Tensor:
        for own, layer in zip(self.own, self.layers, strict=True):
            summed = torch.zeros_like(x).index_add(0, self.targets, x[self.sources])
            x = torch.relu(own(x) + layer(summed / self.count))
        return self.head(x)


class Euler(nn.Module):
    """z' = f(z) over a time of one: in steps of 1/40, or of one by mistake."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.lift, self.read = nn.Linear(16, 16), nn.Linear(16, 4)
        self.field = nn.Sequential(nn.Linear(16, 32), nn.Softplus(), nn.Linear(32, 16))
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        z = self.lift(x)
        for _ in range(40):
            z = z + self.step * self.field(z)
        return self.read(z)


class Hyper(nn.Module):
    """A network writes the weights of another one, as large as those should be, or `scale` times as large."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(4, 8))
        self.writer = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32 * 32))
        nn.init.normal_(self.writer[2].weight, std=scale * (2 / 32) ** 0.5 / 32**0.5)  # type: ignore[arg-type]
        self.first, self.last = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        for code in self.codes:
            h = torch.relu(h @ self.writer(code).view(32, 32))
        return self.last(h)


def checked(model: nn.Module) -> list[Finding]:
    found = gradtrace.check(model, cross_entropy, batches(1)).findings
    return [finding for finding in found if finding.severity is not Severity.INFO]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_sums_over_neighbours_are_blamed_and_not_the_weights() -> None:
    (found,) = checked(Graph(mean=False))
    assert (found.symptom, found.cause) == (Symptom.EXPLODING, Cause.REDUCTION_SCALE)
    assert "Sums over many entries" in found.message
    assert "count" in found.remedies[0].code
    assert checked(Graph(mean=True)) == []


def test_one_map_that_is_added_forty_times_is_told_as_forty_sums() -> None:
    (found,) = checked(Euler(1.0))
    assert (found.symptom, found.cause) == (Symptom.EXPLODING, Cause.RESIDUAL_GROWTH)
    assert "over 40 residual sums" in found.message
    assert "one and the same map" in found.message
    assert found.remedies[0].code.endswith("/ 40")
    assert checked(Euler(1 / 40)) == []


def test_who_writes_weights_that_are_too_large_is_named_first() -> None:
    found = checked(Hyper(10.0))[0]
    assert (found.symptom, found.cause, found.where[0]) == (Symptom.EXPLODING, Cause.LARGE_WEIGHTS, "writer.2")
    assert checked(Hyper(1.0)) == []


def test_growth_before_the_first_step_is_told_beside_the_nan_that_it_ends_in() -> None:
    def watched(step: float, num_steps: int) -> list[Finding]:
        torch.manual_seed(0)
        model, (inputs, _) = Euler(step), batches(1)[0]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        with gradtrace.watch(model, optimizer, budget=100.0) as watch:
            for _ in range(num_steps):
                optimizer.zero_grad()
                F.mse_loss(model(inputs), inputs[:, :4]).backward()
                optimizer.step()
        return [f for f in watch.diagnosis.findings if f.severity is not Severity.INFO]

    ill = watched(1.0, 3)
    assert (ill[0].symptom, ill[0].cause, ill[0].step) == (Symptom.EXPLODING, Cause.RESIDUAL_GROWTH, 0)
    assert Symptom.NONFINITE in [finding.symptom for finding in ill]
    assert watched(1 / 40, 1) == []
