"""An optimizer that is made anew over the same parameters, at every call or epoch, is the one before it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.records.run import Scalar


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))


@pytest.mark.parametrize("with_closure", [False, True])
@pytest.mark.parametrize("budget", [10.0, 0.02])
def test_one_made_at_every_call_is_one(with_closure: bool, budget: float) -> None:
    model, losses = net(), list[float]()

    def improve(inputs: torch.Tensor) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = (model(inputs) - inputs.prod(dim=1, keepdim=True)).square().mean()
            loss.backward()
            losses.append(loss.item())
            return loss

        if with_closure:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()

    with gradtrace.watch(model, torch.optim.SGD(model.parameters(), lr=0.05), budget=budget) as watch:
        for _ in range(60):
            improve(torch.randn(16, 2))

    run = watch.run
    assert len(run.header.optimizers) == 1
    assert int(run.steps.first[-1]) + int(run.steps.count[-1]) == 60
    measured = run.steps.scalar(Scalar.LOSS)[1]
    known = [(int(step), loss) for step, loss in zip(run.steps.first, measured, strict=True) if loss == loss]
    assert len(known) == 60 if budget > 1.0 else known
    assert all(loss == pytest.approx(losses[step], rel=1e-5) for step, loss in known if budget > 1.0)


def test_its_settings_are_those_of_the_latest() -> None:
    model = net()
    with gradtrace.watch(model, torch.optim.SGD(model.parameters(), lr=0.5), budget=10.0) as watch:
        for rate in (0.5, 0.05):
            optimizer = torch.optim.SGD(model.parameters(), lr=rate)
            for _ in range(3):
                optimizer.zero_grad()
                model(torch.randn(8, 2)).square().mean().backward()
                optimizer.step()
    (told,) = watch.run.header.optimizers
    assert told.learning_rate == pytest.approx(0.05)


def test_two_of_a_kind_that_go_on_side_by_side_are_two() -> None:
    model = net()
    first = torch.optim.SGD(model.parameters(), lr=0.05)
    with gradtrace.watch(model, first, budget=10.0) as watch:
        second: torch.optim.Optimizer | None = None
        for _ in range(8):
            for one in (first, second or torch.optim.SGD(model.parameters(), lr=0.01)):
                second = one if one is not first else second
                one.zero_grad()
                model(torch.randn(8, 2)).square().mean().backward()
                one.step()
    assert len(watch.run.header.optimizers) == 2


def test_another_kind_is_another() -> None:
    model = net()
    with gradtrace.watch(model, torch.optim.Adam(model.parameters()), budget=10.0) as watch:
        for kind in (torch.optim.Adam, torch.optim.SGD):
            optimizer = kind(model.parameters(), lr=1e-3)
            for _ in range(3):
                optimizer.zero_grad()
                model(torch.randn(8, 2)).square().mean().backward()
                optimizer.step()
    assert [one.kind for one in watch.run.header.optimizers] == ["Adam", "SGD"]
