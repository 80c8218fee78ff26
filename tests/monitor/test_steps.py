"""What belongs to a step, in loops of every kind: its losses, its gradients before clipping, its optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.records.run import Scalar, Series
from gradtrace.records.vocabulary import Symptom

COLUMN = {name: i for i, name in enumerate(Scalar)}


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def norm_of(model: nn.Module) -> float:
    return math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters() if p.grad is not None))


def rows(watch: gradtrace.monitor.watch.Watch, name: Scalar) -> list[float]:
    found: list[float] = watch.run.steps.scalars_high[:, COLUMN[name]].tolist()
    return found


def trained(loop: Callable[[nn.Module, torch.optim.Optimizer], Any], **options: Any) -> gradtrace.monitor.watch.Watch:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradtrace.watch(model, optimizer, budget=10.0, **options) as watch:
        loop(model, optimizer)
    return watch


@pytest.mark.parametrize("numbers", [[4] * 5, [3, 3, 1, 3], [1, 2, 1, 2, 1], [2, 4, 1, 3]])
def test_the_gradient_is_that_of_all_passes_and_of_before_clipping(numbers: list[int]) -> None:
    truth: list[tuple[float, float]] = []

    def loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for num_passes in numbers:
            optimizer.zero_grad()
            for _ in range(num_passes):
                (3.0 * model(torch.randn(5, 4)).square().mean()).backward()
            norm = norm_of(model)
            optimizer.step()
            truth.append((norm, norm))

    watch = trained(loop)
    assert rows(watch, Scalar.GRADIENT_NORM) == pytest.approx([norm for norm, _ in truth], rel=1e-5)
    assert rows(watch, Scalar.CLIPPED_NORM) == pytest.approx([norm for _, norm in truth], rel=1e-5)


@pytest.mark.parametrize("part", [1, 2, 4])
def test_clipping_of_any_part_is_seen(part: int) -> None:
    truth: list[tuple[float, float]] = []

    def loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(5, 4)).square().mean().backward()
            before = norm_of(model)
            for parameter in list(model.parameters())[-part:]:
                parameter.grad = parameter.grad.clamp(-1e-3, 1e-3)  # another tensor
            truth.append((before, norm_of(model)))
            optimizer.step()

    watch = trained(loop)
    assert rows(watch, Scalar.GRADIENT_NORM) == pytest.approx([norm for norm, _ in truth], rel=1e-5)
    assert rows(watch, Scalar.CLIPPED_NORM) == pytest.approx([norm for _, norm in truth], rel=1e-5)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")  # LBFGS of torch 2.8
@pytest.mark.parametrize("kind", ["lbfgs", "sgd"])
def test_of_a_closure_the_pass_of_the_weights_before_the_step_counts(kind: str) -> None:
    model, losses, gradients = net(), list[float](), list[float]()
    if kind == "lbfgs":
        optimizer: torch.optim.Optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(8, 4)
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for _ in range(5):
            evaluations = list[tuple[float, float]]()

            def closure(evaluations: list[tuple[float, float]] = evaluations) -> torch.Tensor:
                optimizer.zero_grad()
                loss: torch.Tensor = (model(x) - 1.0).square().mean()
                loss.backward()
                evaluations.append((loss.item(), norm_of(model)))
                return loss

            optimizer.step(closure)  # type: ignore[call-overload]
            losses.append(evaluations[0][0])
            gradients.append(evaluations[0][1])
    assert rows(watch, Scalar.LOSS) == pytest.approx(losses, rel=1e-6)
    assert rows(watch, Scalar.GRADIENT_NORM) == pytest.approx(gradients, rel=1e-5)


def test_a_closure_s_step_is_skipped_where_it_is_not_finite() -> None:
    def loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for number in range(4):

            def closure(number: int = number) -> torch.Tensor:
                optimizer.zero_grad()
                loss: torch.Tensor = model(torch.ones(2, 4)).sum() * (math.nan if number == 2 else 1.0)
                loss.backward()
                return loss

            optimizer.step(closure)  # type: ignore[call-overload]
        assert all(bool(p.isfinite().all()) for p in model.parameters())

    assert trained(loop, on_nonfinite="skip").diagnosis.findings[0].symptom is Symptom.NONFINITE


@pytest.mark.parametrize("critic_steps", [1, 2, 5])
def test_of_two_models_that_move_in_turn_each_row_has_its_own_losses(critic_steps: int) -> None:
    """A row holds at most one step of each."""
    generator, critic = net(1), net(2)
    optimizers = {
        "g": torch.optim.SGD(generator.parameters(), lr=1e-3),
        "d": torch.optim.SGD(critic.parameters(), lr=1e-3),
    }
    critic_norms, critic_losses = list[float](), list[float]()
    with gradtrace.watch({"g": generator, "d": critic}, list(optimizers.values()), budget=10.0) as watch:
        for _ in range(12):
            for _ in range(critic_steps):
                optimizers["d"].zero_grad()
                loss = critic(torch.randn(5, 4)).mean() + 1.0
                loss.backward()
                critic_losses.append(loss.item())
                critic_norms.append(norm_of(critic))
                optimizers["d"].step()
            optimizers["g"].zero_grad()
            (generator(torch.randn(5, 4)).mean() * 0.0 + 100.0).backward()
            optimizers["g"].step()
    losses, rates = rows(watch, Scalar.LOSS), rows(watch, Scalar.LEARNING_RATE)
    num_generator = sum(loss > 50.0 for loss in losses)
    assert (len(losses) - 12 * critic_steps in (0, 1), num_generator) == (True, 12)
    assert sum(losses) == pytest.approx(12 * 100.0 + sum(critic_losses), rel=1e-6)
    assert rates == [1e-3] * len(losses)
    norms = watch.run.steps.series(Series.GRADIENT_NORM)[1]
    names = [parameter.name for parameter in watch.run.header.parameters]
    own = np.sqrt(np.nansum(np.square(norms[:, [n.startswith("d.") for n in names]].astype(float)), axis=1))
    assert own[own > 0.0].tolist() == pytest.approx(critic_norms, rel=1e-5)


def test_two_phases_with_an_optimizer_each_keep_one_row_a_step() -> None:
    model, losses = net(), list[float]()
    optimizers = [torch.optim.SGD(model.parameters(), lr=rate) for rate in (0.1, 0.01)]
    with gradtrace.watch(model, optimizers, budget=10.0) as watch:
        for optimizer in optimizers:
            for _ in range(6):
                optimizer.zero_grad()
                loss = (model(torch.randn(5, 4)) - 1.0).square().mean()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
    assert rows(watch, Scalar.LOSS) == pytest.approx(losses, rel=1e-6)
    assert not np.isnan(rows(watch, Scalar.LEARNING_RATE)).any()


def test_losses_of_several_roots_add_up_and_a_nan_in_any_is_found() -> None:
    losses: list[float] = []

    def loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for number in range(4):
            optimizer.zero_grad()
            y = model(torch.randn(5, 4))
            parts = [y.square().mean(), (y.sum() * 0.0 + (0.5 if number < 3 else -0.5)).log()]
            torch.autograd.backward(parts)
            losses.append(sum(part.item() for part in parts))
            optimizer.step()

    torch.manual_seed(3)
    watch = trained(loop)
    assert rows(watch, Scalar.LOSS)[:3] == pytest.approx(losses[:3], rel=1e-6)
    finding = watch.diagnosis.findings[0]
    assert (finding.step, finding.where) == (3, ("loss",))
    assert "log" in finding.message


def test_a_loss_that_is_a_vector_is_finite_where_its_entries_are() -> None:
    def loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for number in range(4):
            optimizer.zero_grad()
            y = model(torch.randn(5, 4)).squeeze(1).square()
            loss = (y * float(number < 3)).sqrt()
            loss.backward(torch.ones(5))
            optimizer.step()

    finding = trained(loop).diagnosis.findings[0]
    assert "the loss is finite, the gradient that it sends back is not" in finding.message
    assert "sqrt" in finding.message


def test_a_nan_in_one_of_several_passes_is_explained_by_that_pass() -> None:
    def loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for number in range(5):
            optimizer.zero_grad()
            for part in range(4):
                y = model(torch.randn(5, 4)).mean()
                (y + (y * float((number, part) != (3, 1))).square().sqrt()).backward()
            optimizer.step()

    finding = trained(loop).diagnosis.findings[0]
    assert (finding.step, finding.where) == (3, ("loss", "2"))
    assert "sqrt" in finding.message


def test_gradients_that_are_set_by_hand_are_measured_and_watched() -> None:
    truth: list[float] = []

    def loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        parameters = list(model.parameters())
        for number in range(5):
            loss = model(torch.randn(5, 4)).square().mean()
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = gradient * (math.nan if number == 3 else 1.0)
            truth.append(norm_of(model))
            optimizer.step()

    watch = trained(loop)
    assert rows(watch, Scalar.GRADIENT_NORM)[:3] == pytest.approx(truth[:3], rel=1e-5)
    assert watch.diagnosis.findings[0].symptom is Symptom.NONFINITE


@pytest.mark.filterwarnings("ignore:Error detected in:UserWarning")
@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
def test_under_anomaly_mode_a_nan_is_told_although_the_pass_fails() -> None:
    def loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for number in range(4):
            optimizer.zero_grad()
            with torch.autograd.set_detect_anomaly(True):
                (model(torch.ones(2, 4)).square().mean() * float(number < 3)).log().backward()
            optimizer.step()

    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = gradtrace.watch(model, optimizer, budget=10.0).start()
    with pytest.raises(RuntimeError, match="returned nan values"):
        loop(model, optimizer)
    watch.close()
    finding = watch.diagnosis.findings[0]
    assert (finding.symptom, finding.step) == (Symptom.NONFINITE, 3)
    assert "log" in finding.message


def test_an_optimizer_within_the_backward_pass_makes_no_wrong_birthplace() -> None:
    model = net()
    optimizers: dict[torch.Tensor, torch.optim.Optimizer] = {
        p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()
    }

    def step(parameter: torch.Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    with gradtrace.watch(model, list(optimizers.values()), budget=10.0) as watch:
        for number in range(5):
            (model(torch.ones(2, 4)).square().mean() * float(number < 3) - float(number == 3)).log().backward()
    finding = watch.diagnosis.findings[0]
    assert (finding.step, watch.run.steps.num_steps) == (3, 5)
    assert "log" in finding.message or "cannot be told: an optimizer moved the weights" in finding.message


@pytest.mark.parametrize("every", [None, 1])
def test_a_parameter_that_joins_later_is_held_from_then_on(every: int | None) -> None:
    model = net()
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    with gradtrace.watch(model, optimizer, budget=10.0, every=every) as watch:
        for number in range(12):
            if number == 3:
                for parameter in model[0].parameters():
                    parameter.requires_grad_(True)
                optimizer.add_param_group({"params": list(model[0].parameters())})
            optimizer.zero_grad()
            (model(torch.randn(16, 4)) - 1.0).square().mean().backward()
            optimizer.step()
    assert [parameter.optimizer for parameter in watch.run.header.parameters] == [0, 0, 0, 0]
    assert not [finding for finding in watch.diagnosis.findings if finding.symptom is Symptom.DISCONNECTED]


def test_two_losses_that_end_in_the_same_op_are_told_apart() -> None:
    def loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for number in range(6):
            optimizer.zero_grad()
            y = model(torch.randn(5, 4)).mean()
            loss = y * 2.0 if number % 2 else (y * float(number < 4)).square().sqrt() * 2.0
            loss.backward()
            optimizer.step()

    finding = trained(loop).diagnosis.findings[0]
    assert finding.step == 4
    assert "sqrt" in finding.message


def test_after_a_closure_that_raised_the_next_steps_are_counted() -> None:
    truth: list[float] = []

    def loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        def closure() -> torch.Tensor:
            for _ in range(2):
                model(torch.ones(2, 4)).square().mean().backward()
            raise MemoryError

        with pytest.raises(MemoryError):
            optimizer.step(closure)  # type: ignore[call-overload]
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(5, 4)).square().mean().backward()
            truth.append(norm_of(model))
            optimizer.step()

    assert rows(trained(loop), Scalar.GRADIENT_NORM)[-2:] == pytest.approx(truth[-2:], rel=1e-5)
