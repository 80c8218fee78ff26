"""Is a forgotten ``zero_grad`` told, and nothing else taken for one?"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.monitor.traces.sampler import Sampler
from gradtrace.monitor.watch import Watch
from gradtrace.records.run import EventKind
from gradtrace.records.vocabulary import Cause, Severity, Symptom


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 3))


def loss_of(model: nn.Module) -> torch.Tensor:
    x = torch.randn(32, 16)
    return nn.functional.cross_entropy(model(x), x[:, :3].argmax(1))


def uncleared(watch: Watch) -> set[int]:
    return {event.step for event in watch.run.events if event.kind is EventKind.UNCLEARED}


@pytest.mark.parametrize("every", [None, 7])
def test_gradients_that_are_never_cleared_are_the_first_finding(every):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with gradtrace.watch(model, optimizer, budget=1.0, every=every) as watch:
        for _ in range(200):
            loss_of(model).backward()
            optimizer.step()
    first = watch.diagnosis.findings[0]
    assert (first.symptom, first.cause, first.step) == (Symptom.EXPLODING, Cause.LEARNING_RATE, 1)
    assert first.severity is Severity.CRITICAL
    assert "never cleared" in first.message
    assert "zero_grad" in first.remedies[0].code


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("parts", [1, 3])
def test_gradients_that_are_cleared_are_not(to_none, parts):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with gradtrace.watch(model, optimizer, budget=1.0) as watch:
        for _ in range(40):
            for _ in range(parts):
                (loss_of(model) / parts).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=to_none)
    assert not uncleared(watch)
    assert watch.diagnosis.healthy


def test_the_critic_that_the_generator_s_pass_runs_through_is_no_such_case():
    generator, critic = net(), nn.Linear(3, 1)
    of_generator, of_critic = (torch.optim.SGD(m.parameters(), lr=1e-3) for m in (generator, critic))
    with gradtrace.watch({"g": generator, "d": critic}, [of_generator, of_critic], budget=1.0) as watch:
        for _ in range(40):
            of_generator.zero_grad()
            critic(generator(torch.randn(8, 16))).square().mean().backward()
            of_generator.step()
            of_critic.zero_grad()
            critic(torch.randn(8, 3)).square().mean().backward()
            of_critic.step()
    assert not uncleared(watch)


def test_seen_once_it_is_an_accumulation_that_somebody_meant():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with gradtrace.watch(model, optimizer, budget=1.0, every=10) as watch:
        for step in range(40):
            if step != 8:
                optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
    assert uncleared(watch) == {8}
    assert watch.diagnosis.healthy


def test_gradients_that_no_optimizer_applies_are_nobody_s_to_clear():
    model = net()
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.05)
    with gradtrace.watch(model, optimizer, budget=1.0) as watch:
        for _ in range(40):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
    assert not uncleared(watch)


def test_what_is_cleared_between_two_passes_of_a_step_has_moved_no_weight():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with gradtrace.watch(model, optimizer, budget=1.0) as watch:
        for _ in range(40):
            (loss_of(model) / 2).backward()  # to what the step before has left
            optimizer.zero_grad()
            (loss_of(model) / 2).backward()
            optimizer.step()
    assert not uncleared(watch)
    assert watch.diagnosis.healthy


def test_a_nan_that_it_ends_in_hides_it_not():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with gradtrace.watch(model, optimizer, budget=1.0) as watch:
        for step in range(31):
            loss_of(model).backward()
            optimizer.step()
            if step == 29:
                model[0].weight.data[0, 0] = float("nan")
    events = watch.run.events
    assert 30 in {event.step for event in events if event.kind is EventKind.NONFINITE}
    assert 30 in {event.step for event in events if event.kind is EventKind.SAMPLE} - uncleared(watch)
    assert any("never cleared" in finding.message for finding in watch.diagnosis.findings)


@pytest.mark.parametrize("cleared", [False, True])
def test_where_a_trace_is_too_dear_for_another_steps_are_looked_at(cleared, monkeypatch):
    begin = Sampler.begin
    monkeypatch.setattr(Sampler, "begin", lambda self, step, **options: step == 0 and begin(self, step, **options))
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with gradtrace.watch(model, optimizer, budget=1.0) as watch:
        for _ in range(40):
            if cleared:
                optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
    assert {event.step for event in watch.run.events if event.kind is EventKind.SAMPLE} == {0}
    assert any("never cleared" in finding.message for finding in watch.diagnosis.findings) is not cleared


def test_what_is_cleared_now_and_then_is_meant():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradtrace.watch(model, optimizer, budget=1.0) as watch:
        for step in range(40):
            if step % 16 == 0:
                optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
    assert {1, 2, 4, 8} <= uncleared(watch)
    assert not any("never cleared" in finding.message for finding in watch.diagnosis.findings)
