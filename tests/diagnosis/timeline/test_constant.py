"""A healthy run whose loss is that of a constant is not called learnt, and one that learns has nothing said of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradtrace
from gradtrace.monitor.watch import Watch

Batch = Callable[[], tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


def trained(batch: Batch, loss: Loss, num_outputs: int, num_steps: int = 140, rate: float = 5e-2) -> Watch:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, num_outputs))
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    with gradtrace.watch(model, optimizer, budget=10.0, every=20) as watch:
        for _ in range(num_steps):
            x, y = batch()
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
    return watch


def told(watch: Watch) -> list[str]:
    return [text for text in watch.diagnosis.refusals if "whether the data is learnt" in text]


def numbers(num: int = 256, *, noise: bool) -> Batch:
    def batch() -> tuple[Tensor, Tensor]:
        x = torch.randn(num, 8)
        return x, torch.randn(num, 1) if noise else x[:, :1] - x[:, 1:2]

    return batch


def classes(num_classes: int, num: int = 256, *, noise: bool) -> Batch:
    def batch() -> tuple[Tensor, Tensor]:
        x = torch.randn(num, 8)
        return x, torch.randint(0, num_classes, (num,)) if noise else x[:, :num_classes].argmax(1)

    return batch


def written_out(output: Tensor, target: Tensor) -> Tensor:
    return ((output - target) ** 2).mean()


@pytest.mark.parametrize("noise", [True, False])
@pytest.mark.parametrize("loss", [F.mse_loss, written_out])
def test_numbers(loss: Loss, noise: bool) -> None:
    watch = trained(numbers(noise=noise), loss, 1)
    assert watch.diagnosis.healthy
    assert len(told(watch)) == noise


@pytest.mark.parametrize("noise", [True, False])
def test_classes(noise: bool) -> None:
    watch = trained(classes(4, noise=noise), F.cross_entropy, 4)
    assert len(told(watch)) == noise
    assert all("cross_entropy is 1." in text for text in told(watch))


@pytest.mark.parametrize(("slope", "is_told"), [(0.2, True), (0.6, False)])
def test_one_that_is_hardly_better(slope: float, is_told: bool) -> None:
    """Of a noise of 1 and a slope s a network can explain s^2 / (1 + s^2): 0.04 and 0.26."""

    def batch() -> tuple[Tensor, Tensor]:
        x = torch.randn(256, 8)
        return x, slope * x[:, :1] + torch.randn(256, 1)

    watch = trained(batch, F.mse_loss, 1, num_steps=300, rate=1e-2)
    assert bool(told(watch)) is is_told
    assert all("the latest that was read" in text or "the latest that was traced" in text for text in told(watch))


def test_before_it_can_have_learnt_nothing_is_said() -> None:
    assert told(trained(numbers(noise=True), F.mse_loss, 1, num_steps=80)) == []


@pytest.mark.parametrize("num_classes", [10, 200])
def test_of_few_samples_an_entropy_has_a_bound(num_classes: int) -> None:
    """No more than log K, however few the samples of a batch are."""
    (text,) = told(trained(classes(num_classes, 16, noise=True), F.cross_entropy, num_classes))
    assert "at least" in text


def test_what_is_below_that_bound_may_be_learnt() -> None:
    """Nearly all labels are one of ten: a constant gets 0.5, and at most 0.9 by sixteen samples of them."""

    def batch() -> tuple[Tensor, Tensor]:
        rare = (torch.rand(16) < 0.1).long()
        return torch.randn(16, 8), rare * torch.randint(1, 10, (16,))

    assert told(trained(batch, F.cross_entropy, 10)) == []


def test_nor_is_anything_said_of_one_that_learns() -> None:
    assert told(trained(classes(8, 16, noise=False), F.cross_entropy, 8)) == []


def test_a_constant_that_is_fitted_to_few_numbers_is_no_measure() -> None:
    assert told(trained(numbers(8, noise=True), F.mse_loss, 1)) == []


@pytest.mark.parametrize("is_own", [True, False])
def test_targets_that_a_network_makes_are_no_data(is_own: bool) -> None:
    """A value whose target is another value: its own, or that of a network that follows it and is not watched."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    slow = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-2)
    with gradtrace.watch(model, optimizer, budget=10.0, every=20) as watch:
        for step in range(140):
            x, later = torch.randn(256, 8), torch.randn(256, 8)
            value = model(x)
            with torch.no_grad():  # the reward grows as an agent learns, and no state tells of it
                values = (model if is_own else slow)(later)
                target = torch.randn(256, 1) * (1.0 if is_own else 1.0 + (step // 20 - 4.0) ** 2) + 0.5 * values
            optimizer.zero_grad()
            F.mse_loss(value, target).backward()
            optimizer.step()
    assert told(watch) == []
