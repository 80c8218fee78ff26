"""A generator against a discriminator that tells its fakes apart, and classifiers that are as flat and right."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradtrace import check
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom

from .networks import batches
from .test_learning import findings, loud

FLAT = (Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION)


def game(bias: float) -> nn.ModuleDict:
    """A generator, and a discriminator whose logits lie around `bias`."""
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "generator": nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)),
            "discriminator": nn.Sequential(nn.Linear(16, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1), nn.Sigmoid()),
        }
    )
    with torch.no_grad():
        model.get_parameter("discriminator.2.bias").fill_(bias)
    model["discriminator"].requires_grad_(False)
    return model


def told(bias: float, of_fakes: Callable[[Tensor], Tensor], optimizer: Any = None) -> tuple[Finding, ...]:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        return of_fakes(model.get_submodule("discriminator")(model.get_submodule("generator")(batch[0])))

    model = game(bias)
    return check(model, loss, batches(), optimizer=optimizer(model) if optimizer else None).findings


MINIMAX: list[Callable[[Tensor], Tensor]] = [
    lambda d: torch.log(1.0 - d).mean(),
    lambda d: torch.log(1.0 - d + 1e-8).mean(),
    lambda d: -F.binary_cross_entropy(d, torch.zeros_like(d)),
]


@pytest.mark.parametrize("of_fakes", MINIMAX)
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_a_generator_that_lowers_what_is_flat(of_fakes: Callable[[Tensor], Tensor], scale: float) -> None:
    found = [f for f in told(-8.0, lambda d: scale * of_fakes(d)) if f.severity is not Severity.INFO]
    assert [(f.symptom, f.cause) for f in found] == [FLAT]
    assert "discriminator" in found[0].where[0]
    assert "2014" in found[0].remedies[0].source
    assert "makes up for 0 %" in found[0].message


@pytest.mark.parametrize("of_fakes", MINIMAX)
def test_the_same_while_the_discriminator_is_not_sure(of_fakes: Callable[[Tensor], Tensor]) -> None:
    assert loud(list(told(0.0, of_fakes))) == []


@pytest.mark.parametrize(
    "of_fakes", [lambda d: -torch.log(d).mean(), lambda d: F.binary_cross_entropy(d, torch.ones_like(d))]
)
@pytest.mark.parametrize("bias", [0.0, -8.0, -16.0])
def test_the_loss_that_does_not_saturate(of_fakes: Callable[[Tensor], Tensor], bias: float) -> None:
    assert loud(list(told(bias, of_fakes))) == []


def test_how_grave_it_is_depends_on_what_training_feels() -> None:
    def severities(make: Callable[[nn.Module], Any]) -> set[Severity]:
        found = told(-12.0, MINIMAX[0], lambda m: make(m["generator"]))
        return {f.severity for f in found if (f.symptom, f.cause) == FLAT}

    assert severities(lambda m: torch.optim.SGD(m.parameters(), lr=0.1)) == {Severity.CRITICAL}
    assert severities(lambda m: torch.optim.Adam(m.parameters(), lr=1e-3)) == {Severity.WARNING}


def trained(loss: Callable[[nn.Module, Any], Tensor], model: nn.Module, data: list[Any], steps: int = 300) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for step in range(steps):
        optimizer.zero_grad()
        loss(model, data[step % len(data)]).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model


CLASSIFIERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross entropy": lambda z, y: F.binary_cross_entropy(torch.sigmoid(z), y),
    "cross entropy of logits": F.binary_cross_entropy_with_logits,
    "written out": lambda z, y: -(y * F.logsigmoid(z) + (1 - y) * F.logsigmoid(-z)).mean(),
    "squared error": lambda z, y: F.mse_loss(torch.sigmoid(z), y),
    "softplus": lambda z, y: F.softplus((1 - 2 * y) * z).mean(),
}


@pytest.mark.parametrize("noisy", [0.0, 0.05])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_that_is_sure_and_right(name: str, noisy: float) -> None:
    """Its sigmoids are flat, and what pulls some of them off are a few labels that are wrong."""
    torch.manual_seed(0)
    data = [(x, ((x[:, :1] > 0) ^ (torch.rand(len(x), 1) < noisy)).float()) for x, _ in batches()]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return CLASSIFIERS[name](model(batch[0]), batch[1])

    model = trained(loss, nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1)), data)
    with torch.no_grad():
        assert torch.sigmoid(model(data[0][0])).sub(0.5).abs().median() > 0.48
    assert loud(findings(model, loss, data)) == []


def test_a_policy_that_has_settled() -> None:
    """Rewards about their mean pull its probabilities to either side, and as weakly."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 1))
    with torch.no_grad():
        model[0].weight.mul_(0.5)
        model[0].bias.fill_(-7.0)
    data = [(x, torch.randn(len(x), 1)) for x, _ in batches()]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        advantage = batch[1] - batch[1].mean()
        return -(torch.log(1 - torch.sigmoid(model(batch[0]))) * advantage).mean()

    assert loud(findings(model, loss, data)) == []


def squashed_policy(of_density: Callable[[Tensor], Tensor]) -> list[tuple[Symptom, Cause]]:
    """What is found where squashed actions, most of them at their bounds, are to lie nearer to the middle."""
    torch.manual_seed(0)
    model = nn.Linear(16, 2)
    with torch.no_grad():
        model.weight.mul_(20.0)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        before = model(batch[0])
        return (torch.tanh(before) - 0.5 * torch.tanh(batch[0][:, :2])).square().mean() + 0.05 * of_density(before)

    found = check(model, loss, batches()).findings
    return [(f.symptom, f.cause) for f in found if f.severity is not Severity.INFO]


def log_density_of_squashing(before: Tensor) -> Tensor:
    """-log(1 - tanh(u)^2) written in u (Haarnoja et al. 2018, appendix C)."""
    return -2.0 * (math.log(2.0) - before - F.softplus(-2.0 * before)).mean()


def test_actions_at_their_bounds_are_flat_where_nothing_else_moves_them() -> None:
    found = squashed_policy(lambda before: torch.zeros(()))
    assert FLAT in found


def test_actions_at_their_bounds_whose_density_moves_them() -> None:
    assert FLAT not in squashed_policy(log_density_of_squashing)


def test_another_way_that_brings_less_than_the_slope_lets_through() -> None:
    found = squashed_policy(lambda before: 1e-20 * log_density_of_squashing(before))
    assert FLAT in found
