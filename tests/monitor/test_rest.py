"""What still holds while the watch rests: steps are counted, nothing is interposed, a NaN is noticed and explained."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.monitor.schedule.cost import Level
from gradtrace.monitor.schedule.schedule import OPENING, Schedule
from gradtrace.records.vocabulary import Symptom

LONG = 50


@pytest.fixture(autouse=True)
def long_rests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After the opening the watch rests for 50 steps, and measures ten."""
    turns = itertools.cycle([(Level.REST, LONG), (Level.MEASURE, 10)])
    monkeypatch.setattr(Schedule, "_next", lambda self, step: next(turns))
    monkeypatch.setattr(Schedule, "_room_s", lambda self: 1.0)
    return iter(())


class Net(nn.Module):
    """Takes the logarithm of what is zero for some units, from one step on."""

    offset = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.log(torch.relu(self.first(x)) + self.offset))  # type: ignore[no-any-return]


LINE = Net.forward.__code__.co_firstlineno + 1


def trained(num_steps: int, bad: int | None = None) -> tuple[gradtrace.monitor.watch.Watch, list[bool]]:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    interposed = []
    with gradtrace.watch(model, optimizer) as watch:
        for number in range(num_steps):
            model.offset = 0.0 if bad is not None and number >= bad else 1.0
            optimizer.zero_grad()
            model(torch.randn(16, 4)).square().mean().backward()
            optimizer.step()
            interposed.append("__call__" in vars(Net))
    return watch, interposed


def test_steps_are_counted_and_nothing_is_interposed_at_modules() -> None:
    watch, interposed = trained(200)
    assert watch.run.steps.num_steps == 200
    assert watch.run.steps.first.tolist() == [*range(OPENING), *range(114, 124), *range(174, 184), 199]
    assert interposed[: OPENING - 1] == [True] * (OPENING - 1)
    assert interposed[OPENING : OPENING + LONG - 1] == [False] * (LONG - 1)
    assert "__call__" not in vars(Net)


@pytest.mark.parametrize("bad", [OPENING, OPENING + 7, OPENING + 26, OPENING + LONG - 1])
def test_a_nan_at_rest_is_noticed_and_explained_although_the_weights_are_spoilt_by_then(bad: int) -> None:
    watch, _ = trained(200, bad)
    finding = watch.diagnosis.findings[0]
    assert finding.symptom is Symptom.NONFINITE
    assert finding.step is not None
    assert bad <= finding.step <= bad + 18
    assert "log" in finding.message
    assert finding.source.endswith(f"test_rest.py:{LINE}")
    assert len(watch.run.steps.first[watch.run.steps.first >= bad]) > 20  # it does not go back to sleep
