"""Gradients that cancel at an output, as of what is held against itself, are told; those of a contest are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradtrace
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom

_G = torch.Generator().manual_seed(0)
X = torch.randn(64, 8, generator=_G)
OTHER = torch.randn(64, 8, generator=_G)
ACTIONS = torch.randint(0, 4, (64,), generator=_G)
EARNED = torch.randn(64, generator=_G)
Loss = Callable[[nn.Module, Tensor], Tensor]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))


def told(loss: Loss, model: nn.Module | None = None) -> list[Finding]:
    found: Any = gradtrace.check(network() if model is None else model, loss, [X, X + 0.1]).findings
    return [f for f in found if "their sum is zero" in f.message]


def log_prob(logits: Tensor) -> Tensor:
    return F.log_softmax(logits, 1)[range(64), ACTIONS]


def ratio(model: nn.Module, x: Tensor) -> Tensor:
    """Of one forward pass, whose likelihoods are computed twice."""
    logits = model(x)
    return (log_prob(logits) - log_prob(logits)).exp()


ILL: dict[str, Loss] = {
    "a ratio to itself": lambda m, x: -(ratio(m, x) * EARNED).mean(),
    "clipped": lambda m, x: -torch.min(ratio(m, x) * EARNED, ratio(m, x).clamp(0.8, 1.2) * EARNED).mean(),
    "a difference, weighed": lambda m, x: (lambda o: ((o - o.clone()) * EARNED[:, None]).sum())(m(x)),
}


@pytest.mark.parametrize("name", ILL)
def test_what_is_held_against_itself(name: str) -> None:
    (found,) = told(ILL[name])
    assert (found.symptom, found.cause, found.severity) == (
        Symptom.LOSS_SATURATED,
        Cause.LOSS_FUNCTION,
        Severity.CRITICAL,
    )
    assert found.where == ("0", "2")
    assert "Detach" in found.remedies[0].title


class ActorCritic(nn.Module):
    """Only the actor's gradients cancel; the critic learns."""

    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = network(), nn.Linear(8, 1)


def test_one_of_two_networks() -> None:
    def loss(model: ActorCritic, x: Tensor) -> Tensor:
        value = model.critic(x).squeeze(1)
        advantage = (EARNED - value).detach()
        return -(ratio(model.actor, x) * advantage).mean() + F.mse_loss(value, EARNED)

    (found,) = told(loss, ActorCritic())  # type: ignore[arg-type]
    assert found.where == ("actor.0", "actor.2")


def _dueling(model: nn.Module, x: Tensor) -> Tensor:
    advantages = model(x)
    return F.mse_loss((advantages - advantages.mean(1, keepdim=True))[range(64), ACTIONS], EARNED)


WELL: dict[str, Loss] = {
    "the old one is held fixed": lambda m, x: -((log_prob(m(x)) - log_prob(m(x)).detach()).exp() * EARNED).mean(),
    "of two inputs": lambda m, x: (log_prob(m(x)) - log_prob(m(OTHER))).exp().mul(EARNED).mean(),
    "a critic's contest": lambda m, x: m(OTHER).mean() - m(x).mean(),
    "a dueling network": _dueling,
    "centred": lambda m, x: (m(x) - m(x).mean(0)).square().mean(),
    "straight through": lambda m, x: F.mse_loss(m(x) + (m(x).sign() - m(x)).detach(), OTHER[:, :4]),
    "one of the two is weighed": lambda m, x: (lambda o: (o - 0.5 * o).mul(EARNED[:, None]).sum())(m(x)),
}


@pytest.mark.parametrize("name", WELL)
def test_what_does_not_cancel(name: str) -> None:
    assert told(WELL[name]) == []
