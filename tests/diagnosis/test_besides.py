"""What a trace shows besides, where a loss stays at a constant's or units have died: where it is, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradtrace
from gradtrace.diagnosis.besides import besides
from gradtrace.measure.path import Paths
from gradtrace.records.trace import Trace
from gradtrace.records.vocabulary import Symptom


def clauses(trace: Trace) -> list[str]:
    return besides(trace, Paths(trace))


def stepped(model: nn.Module, batch: tuple[Tensor, Tensor], num_steps: int = 1) -> gradtrace.Diagnosis:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with gradtrace.watch(model, optimizer, budget=10.0, every=20) as watch:
        for _ in range(num_steps):
            optimizer.zero_grad()
            F.cross_entropy(model(batch[0]), batch[1]).backward()
            optimizer.step()
    return watch.diagnosis


class Reader(nn.Module):
    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.out = nn.LSTM(4, 8, batch_first=batch_first), nn.Linear(8, 3)
        self.each_step = False

    def forward(self, x: Tensor) -> Tensor:
        states = self.lstm(x)[0]
        return self.out(states).transpose(1, 2) if self.each_step else self.out(states[:, -1])


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_recurrence_along_the_examples(batch_first: bool) -> None:
    found = stepped(Reader(batch_first=batch_first), (torch.randn(32, 10, 4), torch.randint(0, 3, (32,))))
    told = clauses(found.traces[-1])
    assert bool(told) is not batch_first
    assert all("32 steps along the first axis" in text and "batch_first" in text for text in told)


def test_a_loss_at_every_step_of_sequences_that_lie_along_the_second_axis_is_right() -> None:
    model = Reader(batch_first=False)
    model.each_step = True
    found = stepped(model, (torch.randn(32, 10, 4), torch.randint(0, 3, (32, 10))))
    assert clauses(found.traces[-1]) == []


class Pixels(nn.Module):
    def __init__(self, *, scrambled: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.out, self.scrambled = nn.Conv2d(1, 6, 3, padding=1), nn.Linear(6, 3), scrambled

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        pixels = maps.view(len(x), 25, 6) if self.scrambled else maps.flatten(2).transpose(1, 2)
        return self.out(pixels.relu().mean(1))


@pytest.mark.parametrize("scrambled", [True, False])
def test_sizes_that_are_exchanged_and_not_the_axes(scrambled: bool) -> None:
    found = stepped(Pixels(scrambled=scrambled), (torch.randn(8, 1, 5, 5), torch.randint(0, 3, (8,))))
    told = clauses(found.traces[-1])
    assert bool(told) is scrambled
    assert all("[8, 6, 5, 5] into [8, 25, 6]" in text for text in told)


class Pair(nn.Module):
    """A reader of a source and of a target, of which it is told nothing."""

    def __init__(self, fill: float, *, silent: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into, self.out, self.fill, self.silent = nn.Linear(4, 6), nn.Linear(6, 3), fill, silent

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.into(x) + self.into(torch.full_like(x, self.fill))
        return self.out((hidden - 100.0).relu() if self.silent else hidden)[:, 0]


@pytest.mark.parametrize("shape", [(8, 5, 4), (8, 5, 2, 4)])
@pytest.mark.parametrize(("fill", "is_told"), [(0.0, True), (1.0, False)])
def test_a_layer_that_is_fed_zeros(shape: tuple[int, ...], fill: float, is_told: bool) -> None:
    model = Pair(fill)
    if len(shape) == 4:
        model.out = nn.Sequential(nn.Flatten(2), nn.Linear(12, 3))
    told = clauses(stepped(model, (torch.randn(shape), torch.randint(0, 3, (8,)))).traces[-1])
    assert len(told) == is_told
    assert all(text.startswith("into (Linear, ") and "(call 2) is fed with zeros alone" in text for text in told)


def test_zeros_that_a_relu_makes_are_told_elsewhere() -> None:
    found = stepped(Pair(1.0, silent=True), (torch.randn(8, 5, 4), torch.randint(0, 3, (8,))))
    assert clauses(found.traces[-1]) == []


def masked(p: float) -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [layer for _ in range(3) for layer in (nn.Linear(64, 64), nn.ReLU(), nn.Dropout(p))]
    return nn.Sequential(*hidden, nn.Linear(64, 10))


@pytest.mark.parametrize(("p", "is_told"), [(0.5, False), (0.8, False), (0.95, True)])
def test_a_mask_that_leaves_noise(p: float, is_told: bool) -> None:
    found = stepped(masked(p), (torch.randn(64, 64), torch.randint(0, 10, (64,))))
    told = clauses(found.traces[-1])
    assert bool(told) is is_told
    assert all("times the signal's power" in text for text in told)


def test_what_units_died_of() -> None:
    found = stepped(masked(0.95), (torch.rand(32, 64), torch.randint(0, 10, (32,))), num_steps=161)
    dead = [f for f in found.findings if f.symptom is Symptom.DEAD_UNITS]
    assert dead
    assert all("(Dropout, " in f.message and "Drop fewer" in f.remedies[0].title for f in dead)
