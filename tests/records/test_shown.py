"""What a record is in a session: one line, a text, a picture, and numbers that are Python's own."""

from __future__ import annotations

import dataclasses
import re
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from tests.report.html.records import run, through_time
from tests.report.samples import SAMPLES, chain

import gradtrace
from gradtrace.monitor.watch import Watch
from gradtrace.records.finding import Diagnosis, Evidence, Finding
from gradtrace.records.lyapunov import LyapunovSpectrum
from gradtrace.records.prediction import Initialisation, Prediction
from gradtrace.records.repair import Outcome, Repair, Role, Trial
from gradtrace.records.run import Run
from gradtrace.records.shown import RENDERERS
from gradtrace.records.time import ThroughTime
from gradtrace.records.trace import Trace
from gradtrace.records.vocabulary import Cause, Severity, Symptom


def predicted() -> Any:
    model = torch.nn.Sequential(*(layer for _ in range(4) for layer in (torch.nn.Linear(8, 8), torch.nn.Tanh())))
    return gradtrace.predict(model, torch.randn(4, 8))


RECORDS = {
    "Diagnosis": SAMPLES["vanishing"],
    "Trace": lambda: chain(30, 0.2, 0.5, "sigmoid"),
    "Run": run,
    "ThroughTime": through_time,
    "Prediction": predicted,
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_one_line_a_text_and_a_picture(name):
    record = RECORDS[name]()
    line = repr(record)
    assert line.startswith(f"<{name} ")
    assert len(line) < 120
    assert "\n" not in line
    text, html = str(record), record._repr_html_()
    assert text.count("\n") >= 3
    assert "\x1b" not in text + html
    assert "<svg" in html
    assert "<script" not in html


def test_a_diagnosis_says_what_it_found():
    assert repr(SAMPLES["vanishing"]()) == "<Diagnosis 'net.py:build': 1 critical (vanishing) over 1 trace>"


@pytest.mark.parametrize("name", RECORDS)
def test_every_renderer_is_there(name):
    for place in RENDERERS[name].values():
        module, _, function = place.partition(":")
        assert callable(getattr(import_module(module), function))


def test_the_public_names_are_listed():
    assert set(gradtrace.__all__) <= set(dir(gradtrace))
    assert "annotations" not in dir(gradtrace)


def test_a_finding_holds_no_scalar_of_numpy():
    evidence = Evidence("gain", np.float64(0.5))  # type: ignore[arg-type]
    finding = Finding(Symptom.VANISHING, Cause.NONE, (), Severity.INFO, "", (evidence,), step=np.int64(3))  # type: ignore[arg-type]
    assert repr(evidence) == "Evidence(name='gain', value=0.5, unit='')"
    assert type(finding.step) is int


def scalars(value: Any, where: str = "") -> list[str]:
    """Where a record holds a scalar of NumPy."""
    if isinstance(value, np.generic):
        return [where]
    if dataclasses.is_dataclass(value):
        return [found for field in dataclasses.fields(value)
                for found in scalars(getattr(value, field.name), f"{where}.{field.name}")]  # fmt: skip
    return [found for each in value for found in scalars(each, where)] if isinstance(value, tuple) else []


def test_nothing_measured_holds_a_scalar_of_numpy():
    lstm = torch.nn.LSTM(3, 4)
    batch = torch.randn(6, 2, 3)
    optimizer = torch.optim.SGD(lstm.parameters(), lr=0.1)
    checked = gradtrace.check(
        lstm, lambda model, x: model(x)[0][-1].pow(2).mean(), [batch, batch], steps=2, optimizer=optimizer
    )
    records = [checked, gradtrace.through_time(lstm, lambda model, x: model(x)[0][-1].sum(), batch), predicted()]
    assert [found for record in records for found in scalars(record, type(record).__name__)] == []


DRAWN = (Diagnosis, Initialisation, LyapunovSpectrum, Prediction, Repair, Run, ThroughTime, Trace, Watch)


@pytest.mark.parametrize("name", sorted({*gradtrace.__all__} - {"load"}))
def test_whatever_a_public_function_returns_is_drawn_in_a_notebook(name):
    returned = set(re.findall(r"\w+", getattr(gradtrace, name).__annotations__["return"])) - {"tuple"}
    (kind,) = (kind for kind in DRAWN if kind.__name__ in returned)
    assert callable(kind._repr_html_)


def test_what_is_no_file_of_ours_is_drawn_too():
    spectrum = LyapunovSpectrum("rnn", "rnn_tanh", 0, "forward", (0.1, -0.2), (0.01, 0.01), 2, 8, 4, 1.5)
    assert "<svg" in spectrum._repr_html_()
    assert "the recurrence expands" in spectrum._repr_html_()
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh())
    done = gradtrace.init_critical_(model, torch.randn(4, 8))
    assert "0.weight" in done._repr_html_()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradtrace.watch(model, optimizer) as watch:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(4, 8)).square().mean().backward()
            optimizer.step()
    assert repr(watch).startswith("<Watch (closed): <Run 'Sequential': 3 steps")
    assert watch._repr_html_().count("<svg") >= 3
    curve = Outcome(0, ((0, 2.0), (1, 0.5)))
    trials = tuple(Trial(role.value, role, outcomes=(curve,)) for role in Role)
    drawn = Repair(Diagnosis(()), None, trials)._repr_html_()
    assert all(f"</span> {role.value}" in drawn for role in Role)
