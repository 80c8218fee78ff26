"""Is it told that another model has taken the place of the optimizer's, and nothing else taken for it?"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.monitor.watch import Watch
from gradtrace.records.run import EventKind
from gradtrace.records.vocabulary import Cause, Severity, Symptom

STEPS = 60


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 3))


def loss_of(model: nn.Module) -> torch.Tensor:
    x = torch.randn(32, 16)
    return nn.functional.cross_entropy(model(x), x[:, :3].argmax(1))


def trained(replaced: Callable[[int, nn.Module], nn.Module], clear: str = "optimizer", **options: float) -> Watch:
    """A loop in which `replaced` says at each step which model is trained from there on."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with gradtrace.watch(model, optimizer, **options) as watch:
        for step in range(STEPS):
            model = replaced(step, model)
            if clear == "zeros":
                optimizer.zero_grad(set_to_none=False)
            else:
                (optimizer if clear == "optimizer" else model).zero_grad()
            loss_of(model).backward()
            optimizer.step()
    return watch


def copied_once(step: int, model: nn.Module) -> nn.Module:
    return copy.deepcopy(model) if step == 20 else model


def made_anew_at_each_fold(step: int, model: nn.Module) -> nn.Module:
    return net() if step and step % 20 == 0 else model


@pytest.mark.parametrize("options", [{"budget": 1.0}, {}])
@pytest.mark.parametrize("replaced", [copied_once, made_anew_at_each_fold])
@pytest.mark.parametrize("clear", ["optimizer", "model", "zeros"])
def test_an_optimizer_that_is_left_with_the_model_before(replaced, clear, options):
    watch = trained(replaced, clear, **options)
    first = watch.diagnosis.findings[0]
    assert (first.symptom, first.cause, first.severity) == (
        Symptom.DISCONNECTED,
        Cause.DETACHED_GRAPH,
        Severity.CRITICAL,
    )
    assert "replaced after the optimizer was made" in first.message
    assert 20 <= first.step <= 30
    assert "load_state_dict" in first.remedies[0].code


def copies_beside(step: int, model: nn.Module) -> nn.Module:
    copy.deepcopy(model)
    return model


def is_astray(watch: Watch) -> bool:
    return any("replaced after the optimizer was made" in finding.message for finding in watch.diagnosis.findings)


@pytest.mark.parametrize("clear", ["optimizer", "model", "zeros"])
def test_a_copy_that_is_only_kept(clear):
    watch = trained(copies_beside, clear, budget=1.0)
    assert not any(event.kind is EventKind.ASTRAY for event in watch.run.events)
    assert watch.diagnosis.healthy


def test_the_copy_has_a_way_of_its_own_to_learn():
    """Phases: the first optimizer is stepped by habit, while another one trains what came after."""
    model = net()
    first = torch.optim.Adam(model.parameters(), lr=1e-3)
    with gradtrace.watch(model, first, budget=1.0) as watch:
        other = copy.deepcopy(model)
        for _ in range(STEPS):
            first.zero_grad()
            other.zero_grad()
            loss_of(other).backward()
            with torch.no_grad():
                for parameter in other.parameters():
                    parameter -= 0.05 * parameter.grad
            first.step()
    assert not is_astray(watch)


def test_gradients_of_copies_that_are_handed_on():
    """First-order MAML (Finn et al. 2017, section 5.2): the model steps by the gradients of adapted copies."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    fast = copy.deepcopy(model)
    with gradtrace.watch(model, optimizer, budget=1.0) as watch:
        for _ in range(STEPS):
            fast.load_state_dict(model.state_dict())
            fast.zero_grad()
            loss_of(fast).backward()
            for slow, adapted in zip(model.parameters(), fast.parameters(), strict=True):
                slow.grad = adapted.grad.clone()
            optimizer.step()
    assert not any(event.kind is EventKind.ASTRAY for event in watch.run.events)


def test_a_model_that_comes_back():
    model, other = net(), net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with gradtrace.watch(model, optimizer, budget=1.0) as watch:
        for step in range(STEPS):
            optimizer.zero_grad()
            other.zero_grad()
            loss_of(other if 20 <= step < 40 else model).backward()  # a pass for what its gradients show
            optimizer.step()
    kinds = [event.kind for event in watch.run.events]
    assert EventKind.ASTRAY in kinds
    assert EventKind.RETURNED in kinds
    assert not is_astray(watch)
