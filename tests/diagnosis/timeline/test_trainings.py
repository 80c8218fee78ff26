"""Real small trainings under watch, healthy and ill: what is said of them over time, and since when.

That each is as ill (or healthy) as it is meant to be is measured by plain PyTorch beside.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradtrace
from gradtrace.diagnosis.timeline.judge import judge_run
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom

Step = Callable[[int], Tensor]


def network(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers[:-1])


def clusters(num_samples: int = 64) -> tuple[Tensor, Tensor]:
    centres = torch.randn(4, 16, generator=torch.Generator().manual_seed(7))
    labels = torch.randint(0, 4, (num_samples,))
    return 1.5 * centres[labels] + torch.randn(num_samples, 16), labels


def watched(models: Any, optimizers: Any, loss_of: Step, num_steps: int) -> tuple[list[Finding], list[float]]:
    """Findings of the rules over time (norms at every step, hardly a whole trace), and the losses."""
    listed: Iterable[Any] = optimizers if isinstance(optimizers, list) else [optimizers]
    losses = []
    with gradtrace.watch(models, optimizers, budget=100.0, every=10**9) as watch:
        for number in range(num_steps):
            for optimizer in listed:
                optimizer.zero_grad()
            loss = loss_of(number)
            loss.backward()
            for optimizer in listed:
                optimizer.step()
            losses.append(float(loss.detach()))
    return judge_run(watch.run), losses


def loud(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity is not Severity.INFO]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


# ------------------------------------------------------------------------------------------------------------ healthy


@pytest.mark.long
def test_a_hinge_that_is_satisfied_is_healthy() -> None:
    model = network(16, 32, 1)
    x = torch.randn(64, 16)
    y = torch.sign(x @ torch.randn(16))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    found, losses = watched(model, optimizer, lambda _: F.relu(1 - y * model(x)[:, 0]).mean(), 200)
    assert losses[0] > 0.5
    assert losses[-40:] == [0.0] * 40
    assert loud(found) == []


def test_a_curriculum_is_healthy_and_its_growth_a_remark_at_most() -> None:
    model = network(1, 64, 64, 1, activation=nn.Tanh)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss_of(number: int) -> Tensor:
        x = 6 * torch.rand(64, 1) - 3
        return F.mse_loss(model(x), (1 + 9 * (number >= 120)) * torch.sin((1 + 5 * (number >= 120)) * x))

    found, losses = watched(model, optimizer, loss_of, 150)
    assert min(losses[-20:]) > 10 * losses[0]
    assert loud(found) == []
    assert any(f.symptom is Symptom.EXPLODING and f.severity is Severity.INFO and f.step == 120 for f in found)


def test_phases_of_a_training_are_healthy() -> None:
    """Layers frozen half way; then the second head instead of the first, whose gradient is zero from then on."""
    trunk, first, second = network(16, 32, 32), nn.Linear(32, 4), nn.Linear(32, 4)
    parts = {"trunk": trunk, "first": first, "second": second}
    optimizer = torch.optim.Adam([p for part in parts.values() for p in part.parameters()], lr=2e-3)

    def loss_of(number: int) -> Tensor:
        x, y = clusters()
        for parameter in (*first.parameters(), *second.parameters()):
            parameter.grad = torch.zeros_like(parameter)
        trunk[0].requires_grad_(number < 100)
        return F.cross_entropy((first if number < 150 else second)(F.relu(trunk(x))), y)

    found, losses = watched(parts, optimizer, loss_of, 300)
    assert losses[-1] < 0.5
    assert loud(found) == []


@pytest.mark.long
def test_an_overfit_down_to_the_rounding_of_float32_is_healthy() -> None:
    model = network(8, 64, 64, 1, activation=nn.Tanh)
    x, y = torch.randn(16, 8), torch.randn(16, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    found, losses = watched(model, optimizer, lambda _: F.mse_loss(model(x), y), 1200)
    assert losses[-1] < 1e-6
    assert loud(found) == []


# ---------------------------------------------------------------------------------------------------------------- ill


def test_a_rate_that_blows_up_the_first_step_is_told_though_the_loss_comes_back_down() -> None:
    model = network(8, 64, 64, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0)
    found, losses = watched(model, optimizer, lambda _: model(torch.randn(64, 8)).sub(1.0).square().mean(), 60)
    assert max(losses[1:5]) > 1e4 * losses[0]
    finding = loud(found)[0]
    assert (finding.symptom, finding.cause, finding.severity) == (
        Symptom.EXPLODING, Cause.LEARNING_RATE, Severity.CRITICAL,
    )  # fmt: skip
    assert finding.step == 1


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_gradient_descent_just_above_its_stable_rate(scale: float) -> None:
    """With 2.05 / (largest curvature) the error grows by 5 % a step, to ten times the first loss at the onset.

    The scale of the loss, taken out of the rate again, changes nothing.
    """
    model = nn.Linear(8, 1, bias=False)
    x = torch.randn(256, 8)
    y = x @ torch.randn(8, 1)
    curvature = torch.linalg.eigvalsh(2 * x.T @ x / 256).max().item()
    optimizer = torch.optim.SGD(model.parameters(), lr=2.05 / curvature / scale)
    found, losses = watched(model, optimizer, lambda _: scale * F.mse_loss(model(x), y), 200)
    onset = next(i for i in range(200) if min(losses[i:]) > 10 * losses[0])
    finding = next(f for f in loud(found) if f.severity is Severity.CRITICAL)
    assert (finding.symptom, finding.cause) == (Symptom.EXPLODING, Cause.LEARNING_RATE)
    assert finding.step is not None
    assert abs(finding.step - onset) <= 15


@pytest.mark.parametrize("how", ["rate", "optimizer"])
def test_a_layer_that_is_not_moved_any_more(how: str) -> None:
    model = network(16, 32, 32, 4)
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    optimizer = torch.optim.Adam([{"params": layer.parameters(), "lr": 1e-3} for layer in linear])

    def loss_of(number: int) -> Tensor:
        x, y = clusters()
        if number == 150 and how == "rate":
            optimizer.param_groups[1]["lr"] = 0.0
        if number == 150 and how == "optimizer":
            del optimizer.param_groups[1]
        if number >= 150:
            model[2].zero_grad()  # the optimizer that lost it does not
        return F.cross_entropy(model(x), y)

    found, _ = watched(model, optimizer, loss_of, 300)
    (finding,) = loud(found)
    assert (finding.symptom, finding.cause, finding.where) == (Symptom.DISCONNECTED, Cause.DETACHED_GRAPH, ("2",))
    assert finding.step is not None
    assert 150 <= finding.step <= 160  # updates are measured every tenth step


def test_a_cut_is_told_from_dead_units() -> None:
    lower, upper = network(16, 32, 32), network(32, 32, 4)
    model = nn.Sequential(lower, upper)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def is_cut(number: int) -> Tensor:
        x, y = clusters()
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        states = lower(x)
        return F.cross_entropy(upper(states.detach() if number >= 100 else states), y)

    found, _ = watched(model, optimizer, is_cut, 200)
    (finding,) = loud(found)
    assert (finding.symptom, finding.cause, finding.step) == (Symptom.DISCONNECTED, Cause.DETACHED_GRAPH, 100)


def test_units_that_die_at_one_step() -> None:
    model = network(8, 32, 32, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def loss_of(number: int) -> Tensor:
        if number == 120:
            with torch.no_grad():
                model[2].bias -= 100.0
        x = torch.randn(64, 8)
        return F.mse_loss(model(x), torch.sin(x.sum(1, keepdim=True)))

    found, _ = watched(model, optimizer, loss_of, 240)
    assert not model[:4](torch.randn(256, 8)).any()
    (finding,) = loud(found)
    assert (finding.symptom, finding.step) == (Symptom.DEAD_UNITS, 120)
    assert finding.where == ("0", "2", "4")


def test_a_sigmoid_pushed_to_its_wrong_end_stays_there() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    def loss_of(number: int) -> Tensor:
        x = torch.randn(64, 8)
        if number == 100:
            with torch.no_grad():
                model[2].bias += 60.0
        return F.mse_loss(torch.sigmoid(model(x)), (x[:, :1] > 0).float())

    found, losses = watched(model, optimizer, loss_of, 300)
    assert losses[-1] > 2 * losses[99]
    finding = next(f for f in loud(found) if f.symptom is Symptom.LOSS_SATURATED)
    assert finding.step == 100


def test_what_came_before_a_nan_is_told() -> None:
    """A rate that grows until training diverges, and a logarithm of zero out of the blue."""

    def run_away(number: int) -> Tensor:
        optimizer.param_groups[0]["lr"] = 1e-2 * 10 ** (number / 30)
        return F.mse_loss(model(x), y)

    def log_of_zero(number: int) -> Tensor:
        loss = F.mse_loss(model(x), y)
        return torch.log(loss * 0.0) if number == 90 else loss

    for loss_of, cause, words in (
        (run_away, Cause.LEARNING_RATE, "The loss had grown"),
        (log_of_zero, Cause.UNSAFE_OP, "The loss had been steady"),
    ):
        torch.manual_seed(0)
        model = network(8, 32, 1, activation=nn.Tanh)
        x = torch.randn(64, 8)
        y = torch.sin(x.sum(1, keepdim=True))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        found, losses = watched(model, optimizer, loss_of, 200)
        first = next(i for i, loss in enumerate(losses) if not math.isfinite(loss))
        finding = next(f for f in found if f.symptom is Symptom.NONFINITE)
        assert finding.cause is cause
        assert finding.step is not None
        assert first - 2 <= finding.step <= first  # a gradient goes before the loss
        assert words in finding.message


@pytest.mark.parametrize(
    ("clip", "rate", "kind", "ill"),
    [
        (1e-5, 0.05, torch.optim.SGD, "Clipping is too tight"),
        (math.inf, 1e-6, torch.optim.SGD, "learning rate is too small"),
        (1.0, 0.05, torch.optim.SGD, ""),
        (1e-5, 1e-3, torch.optim.Adam, ""),  # whose steps are as long for any gradient
    ],
)
def test_steps_of_which_a_hundred_do_less_than_a_usual_one(
    clip: float, rate: float, kind: type[torch.optim.Optimizer], ill: str
) -> None:
    model = network(16, 64, 64, 1)
    optimizer = kind(model.parameters(), lr=rate)  # type: ignore[call-arg]
    teacher = torch.randn(16, 1)
    with gradtrace.watch(model, optimizer, budget=100.0, every=10**9) as watch:
        for _ in range(150):
            x = torch.randn(64, 16)
            optimizer.zero_grad()
            F.mse_loss(model(x), torch.tanh(x @ teacher)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
    found = [f for f in loud(judge_run(watch.run)) if f.symptom is Symptom.UNDERFLOW]
    assert [f.cause for f in found] == ([Cause.LEARNING_RATE] if ill else [])
    assert all(ill in f.message for f in found)
