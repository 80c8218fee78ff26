"""Networks that nothing of the data comes to: zeros, one example again and again, or weights of zeros."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradtrace
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom


def loud(model: nn.Module, inputs: Tensor) -> list[Finding]:
    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    batches = [(inputs, torch.randint(0, 4, (len(inputs),))) for _ in range(3)]
    return [f for f in gradtrace.check(model, loss_fn, batches).findings if f.severity is not Severity.INFO]


class Hats(nn.Module):
    """Hat functions on a grid from -1 to 1, as splines have, and weights of them."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(1 - (x[..., None] - torch.linspace(-1, 1, 8)).abs() / 0.3).flatten(1)


@pytest.mark.parametrize(("shift", "ill"), [(10.0, True), (0.0, False)])
def test_data_outside_of_the_grid(shift: float, ill: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Hats(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 4))
    found = [f for f in loud(model, shift + torch.rand(64, 16)) if f.symptom is Symptom.DISCONNECTED]
    assert [(f.cause, f.where) for f in found] == ([(Cause.INPUT_SCALE, ("1",))] if ill else [])


@pytest.mark.parametrize(("size", "ill"), [(1, False), (7, False), (8, True)])
def test_a_few_examples_may_be_zeros(size: int, ill: bool) -> None:
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 4))
    found = [f for f in loud(model, torch.zeros(size, 2)) if f.symptom is Symptom.DISCONNECTED]
    assert bool(found) is ill


class Counter(nn.Module):
    """A recurrence without an input, from a state of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros_like(x)
        for _ in range(4):
            h = torch.tanh(self.cell(h))
        return self.head(h)  # type: ignore[no-any-return]


def test_a_state_that_starts_at_zero_is_fed_by_its_own_steps() -> None:
    torch.manual_seed(0)
    found = loud(Counter(), torch.randn(64, 16))
    assert not [f for f in found if f.symptom is Symptom.DISCONNECTED]


@pytest.mark.parametrize(("zeros", "ill"), [((0, 2, 4), True), ((4,), False), ((), False)])
def test_zeros_that_the_data_do_not_come_past_are_not_by_design(zeros: tuple[int, ...], ill: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4))
    for layer in (model[i] for i in zeros):
        nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
    found = loud(model, torch.randn(64, 16))
    assert [(f.symptom, f.cause) for f in found] == ([(Symptom.VANISHING, Cause.SMALL_WEIGHTS)] if ill else [])


def plain(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), *between, nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))


class Scaled(nn.Module):
    """Data come to it as a factor too, which is no layer's operand."""

    def __init__(self) -> None:
        super().__init__()
        self.hyper, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hyper(torch.ones_like(x)) * x))  # type: ignore[no-any-return]


class Queries(nn.Module):
    """A learned row, expanded over the batch, that the data are added to behind the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.first, self.head = nn.Parameter(torch.randn(16)), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.first(self.query.expand(len(x), -1)) + x))  # type: ignore[no-any-return]


SAME = "one and the same"


def of_one_example(model: nn.Module, inputs: Tensor) -> list[Finding]:
    torch.manual_seed(0)
    return [f for f in loud(model, inputs) if SAME in f.message]


@pytest.mark.parametrize("between", [(), (nn.BatchNorm1d(32),), (nn.Dropout(0.3),)])
@pytest.mark.parametrize("differing", [0, 1, 64])
def test_one_example_again_and_again(between: tuple[nn.Module, ...], differing: int) -> None:
    torch.manual_seed(0)
    inputs = torch.rand(16).repeat(64, 1)
    inputs[:differing] += torch.rand(differing, 16)
    found = loud(plain(*between), inputs)
    if differing:
        assert not [f for f in found if SAME in f.message]
        return
    assert [(f.symptom, f.cause, f.where, f.severity) for f in found] == [
        (Symptom.DISCONNECTED, Cause.INPUT_SCALE, ("0",), Severity.CRITICAL)
    ]


def test_integers_that_are_looked_up() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Embedding(16, 8), nn.Flatten(), nn.Linear(96, 4))

    readings = torch.rand(64, 12)
    assert of_one_example(model(), readings.long() * 15)
    assert not of_one_example(model(), (readings * 15).long())


@pytest.mark.parametrize("model", [Scaled, Queries])
def test_data_that_come_in_elsewhere(model: type[nn.Module]) -> None:
    assert not of_one_example(model(), torch.randn(64, 16))


def test_targets_that_are_alike_too_are_no_fault() -> None:
    def loss_fn(model: nn.Module, batch: Tensor) -> Tensor:
        return F.cross_entropy(model(batch), torch.ones(len(batch), dtype=torch.long))

    batches = [torch.ones(64, 16) for _ in range(2)]
    found = gradtrace.check(plain(), loss_fn, batches).findings
    assert not [f for f in found if SAME in f.message]


def test_places_of_one_image_are_no_examples() -> None:
    """Two of a kind, with a label for each pixel: what tells pixels apart is not told by the rows."""
    torch.manual_seed(0)
    images, labels = torch.rand(1, 3, 8, 8).repeat(16, 1, 1, 1), torch.randint(0, 4, (1, 8, 8)).repeat(16, 1, 1)

    def loss_fn(model: nn.Module, batch: Tensor) -> Tensor:
        return F.cross_entropy(model(batch), labels)

    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    assert not [f for f in gradtrace.check(model, loss_fn, [images, images]).findings if SAME in f.message]
