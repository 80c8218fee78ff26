"""What vanished in a trace and has come back in the steps since is no alarm any more; what has not stays one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.diagnosis.timeline.test_timeline import NUM_LAYERS, NUM_STEPS, Arrays, made
from tests.report.samples import chain
from torch import nn

import gradtrace
from gradtrace.diagnosis.judge import judge
from gradtrace.diagnosis.thresholds import CLEAR_DECADES, FOLLOWED_STEPS, HEALTHY_DECADES, SUSTAINED_ROWS
from gradtrace.diagnosis.timeline.recovery import is_as_far_behind, with_recovery
from gradtrace.monitor.schedule.schedule import Schedule
from gradtrace.records.exhibit import Exhibit
from gradtrace.records.finding import Finding
from gradtrace.records.run import Run
from gradtrace.records.vocabulary import Cause, Severity, Symptom

TRACE = chain(NUM_LAYERS, 0.2, 0.6, "sigmoid")
AT = 10


def lost() -> Finding:
    (found,) = [f for f in judge(Exhibit((TRACE,))).findings if f.symptom is Symptom.VANISHING]
    assert found.severity is Severity.CRITICAL
    return found


def extent() -> float:
    return min(-e.value for e in lost().evidence if e.name.startswith("early against late ("))


def gained(decades: float, *, rows: slice = slice(AT + 1, None)) -> Run:
    """The gradient of the layer that lies first is as far behind as in the trace, and nearer in `rows`."""

    def change(arrays: Arrays) -> None:
        noise = np.exp(np.random.default_rng(0).normal(0, 0.05, NUM_STEPS))
        arrays["gradients"][:] = noise[:, None]
        arrays["gradients"][:, 0] *= 10 ** -extent()
        arrays["gradients"][rows, 0] *= 10**decades

    return made(change)


def severity_after(run: Run) -> Severity:
    return with_recovery(lost(), TRACE, run, AT, HEALTHY_DECADES).severity


def test_as_far_behind_as_ever() -> None:
    assert with_recovery(lost(), TRACE, gained(0.0), AT, HEALTHY_DECADES) == lost()


@pytest.mark.parametrize(
    ("left", "severity"),
    [
        (CLEAR_DECADES + 0.5, Severity.CRITICAL),
        (CLEAR_DECADES - 0.5, Severity.WARNING),
        (HEALTHY_DECADES - 0.5, Severity.INFO),
    ],
)
def test_by_what_is_left(left: float, severity: Severity) -> None:
    assert severity_after(gained(extent() - left)) is severity


def test_a_threshold_that_was_moved_counts() -> None:
    run = gained(extent() - HEALTHY_DECADES - 0.5)
    assert with_recovery(lost(), TRACE, run, AT, HEALTHY_DECADES + 1.0).severity is Severity.INFO


@pytest.mark.parametrize(("end", "severity"), [(0.1, Severity.INFO), (2.0, Severity.WARNING)])
def test_a_warning_that_was_not_looked_at_again_while_the_loss_halved(end: float, severity: Severity) -> None:
    """A busy machine: gradients are measured for 60 steps, and the loss is read now and then after that."""

    def change(arrays: Arrays) -> None:
        arrays["gradients"][:] = 1.0
        arrays["gradients"][:, 0] *= 10 ** -extent()
        arrays["gradients"][60:] = np.nan
        arrays["loss"][:60], arrays["loss"][60:] = 2.3, np.nan
        arrays["loss"][[96, 162, 228, 295, 350, 390]] = np.linspace(2.3, end, 6)
        arrays["loss"][[350, 390]] = end

    warning = replace(lost(), severity=Severity.WARNING)
    assert with_recovery(warning, TRACE, made(change), AT, HEALTHY_DECADES).severity is severity
    assert with_recovery(lost(), TRACE, made(change), AT, HEALTHY_DECADES).severity is Severity.CRITICAL


def test_the_sentence_says_what_came_back() -> None:
    told = with_recovery(lost(), TRACE, gained(extent()), AT, HEALTHY_DECADES).message
    assert told.startswith(lost().message)
    assert "layers.0 (Linear) has come" in told


@pytest.mark.parametrize("rows", [slice(NUM_STEPS - SUSTAINED_ROWS + 1, None), slice(AT + 1, NUM_STEPS - 1)])
def test_all_of_the_latest_rows_must_agree(rows: slice) -> None:
    assert severity_after(gained(extent(), rows=rows)) is Severity.CRITICAL


def test_what_moves_all_gradients_alike_is_no_recovery() -> None:
    def change(arrays: Arrays) -> None:
        arrays["gradients"][:, 0] *= 10 ** -extent()
        arrays["gradients"][AT + 1 :] *= 1e6

    assert severity_after(made(change)) is Severity.CRITICAL


def test_rows_without_that_layer_say_nothing() -> None:
    assert severity_after(gained(np.nan)) is Severity.CRITICAL


def test_remarks_and_other_findings_are_left_alone() -> None:
    for other in (
        Finding(Symptom.EXPLODING, Cause.LARGE_WEIGHTS, ("layers.0",), Severity.CRITICAL, "grows"),
        Finding(Symptom.VANISHING, Cause.SMALL_WEIGHTS, ("layers.0",), Severity.INFO, "a remark"),
        Finding(Symptom.VANISHING, Cause.SMALL_WEIGHTS, ("layers.0",), Severity.CRITICAL, "of no depth"),
    ):
        assert with_recovery(other, TRACE, gained(extent()), AT, HEALTHY_DECADES) is other


@pytest.mark.parametrize("recovers", [True, False])
def test_a_training_that_leaves_its_small_weights_behind(recovers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced once, at its first step: weights that are drawn too small, and in one of the two runs soon are not."""
    monkeypatch.setattr(Schedule, "wants_trace", lambda self, step, *, is_urgent: step == 0)
    torch.manual_seed(0)
    layers = [nn.Linear(32, 32) for _ in range(8)]
    model = nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())), nn.Linear(32, 1))
    for layer in layers:
        nn.init.normal_(layer.weight, 0, 0.03)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    monkeypatch.setattr("gradtrace.monitor.training.JUDGE_EVERY_S", 0.0)
    told: list[list[Severity]] = []
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for step in range(20):
            optimizer.zero_grad()
            (model(torch.randn(64, 32)) - torch.randn(64, 1)).square().mean().backward()
            optimizer.step()
            if recovers and step == 0:
                with torch.no_grad():
                    for layer in layers:
                        layer.weight.mul_(6.0)
            told.append([f.severity for f in watch.run.findings if f.symptom is Symptom.VANISHING])
    assert watch.trace_steps == (0,)
    vanished = [f for f in watch.diagnosis.findings if f.symptom is Symptom.VANISHING]
    assert [f.severity is Severity.INFO for f in vanished] == [recovers]
    assert not any(told[:SUSTAINED_ROWS])
    assert ([Severity.CRITICAL] in told) == (not recovers)  # nobody is told in between what the end takes back


@pytest.mark.parametrize("num_steps", [2, SUSTAINED_ROWS, 12])
def test_who_ends_before_anything_could_come_back_is_told_all_the_same(num_steps: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(part for _ in range(12) for part in (nn.Linear(32, 32), nn.Sigmoid())), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for _ in range(num_steps):
            optimizer.zero_grad()
            (model(torch.randn(64, 32)) - torch.randn(64, 1)).square().mean().backward()
            optimizer.step()
    assert [f.severity for f in watch.diagnosis.findings if f.symptom is Symptom.VANISHING] == [Severity.CRITICAL]
    assert [f.severity for f in watch.run.findings if f.symptom is Symptom.VANISHING] == [Severity.CRITICAL]


def test_what_is_clear_cut_and_as_far_behind_after_the_steps_that_were_followed() -> None:
    flat = {"loss": np.full(NUM_STEPS, 2.3)}

    def run(decades: float, loss: dict[str, Any]) -> Run:
        def change(arrays: Arrays) -> None:
            arrays.update(loss)
            arrays["gradients"][:] = 1.0
            arrays["gradients"][:, 0] *= 10 ** -extent()
            arrays["gradients"][AT + 1 :, 0] *= 10**decades

        return made(change)

    assert is_as_far_behind(TRACE, run(0.0, flat), AT)
    assert is_as_far_behind(TRACE, run(0.3 * (extent() - HEALTHY_DECADES), flat), AT)
    assert not is_as_far_behind(TRACE, run(0.6 * (extent() - HEALTHY_DECADES), flat), AT)
    assert not is_as_far_behind(TRACE, run(0.0, {}), AT), "the loss falls"


@pytest.mark.parametrize("rate", [1e-6, 1e-2])
def test_what_adam_was_expected_to_even_out(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced once, at its first step: whether it does, the norms of later steps tell."""
    monkeypatch.setattr(Schedule, "wants_trace", lambda self, step, *, is_urgent: step == 0)
    torch.manual_seed(0)
    model = nn.Sequential(*(part for _ in range(6) for part in (nn.Linear(32, 32), nn.Sigmoid())), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for _ in range(2 * FOLLOWED_STEPS):
            optimizer.zero_grad()
            x = torch.randn(64, 32)
            (1e4 * (model(x) - x[:, :1].sign()).square().mean()).backward()  # well above Adam's eps
            optimizer.step()
    assert watch.trace_steps == (0,)
    (found,) = [f for f in watch.diagnosis.findings if f.symptom is Symptom.VANISHING]
    is_told = found.severity is Severity.CRITICAL and "Adam has not evened this out" in found.message
    assert is_told == (rate < 1e-3)
