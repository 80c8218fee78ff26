"""Records as tables: the numbers are the record's, whatever puts the table together."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from tests.report.samples import SAMPLES
from torch import nn

import gradtrace
from gradtrace.errors import InputError
from gradtrace.records.finding import Diagnosis
from gradtrace.records.run import Scalar
from gradtrace.report.frames import FINDING, PASSED, table


@pytest.fixture(scope="module")
def run():
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradtrace.watch(model, optimizer, every=1) as watch:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().mean().backward()
            optimizer.step()
    return watch.run


def test_a_diagnosis_has_a_line_a_finding():
    diagnosis = SAMPLES["vanishing"]()
    found = table(diagnosis)
    assert tuple(found) == FINDING
    assert found["code"] == [finding.code for finding in diagnosis.findings]
    assert found["where"][0].split(", ") == list(diagnosis.findings[0].where)
    assert set(map(len, found.values())) == {len(diagnosis.findings)}


def test_a_trace_has_a_line_a_gradient_that_is_passed_on_with_its_gain():
    trace = SAMPLES["vanishing"]().traces[0]
    found = table(trace)
    assert tuple(found) == PASSED
    edges = [(op.index, i) for op in trace.ops for i, passed in enumerate(op.passed) if passed is not None]
    lines = zip(found["op"], found["input"], found["gain_decades"], strict=True)
    lines = [line for line in lines if line[1] is not None]
    assert [(op, i) for op, i, _ in lines] == edges
    assert [decades for *_, decades in lines] == pytest.approx([math.log10(trace.ops[o].gain(i)) for o, i in edges])
    assert {op.index for op in trace.ops} == set(found["op"])


def test_nothing_is_a_table_without_lines(run):
    assert set(map(len, table(Diagnosis(())).values())) == {0}
    assert tuple(table(Diagnosis(()))) == FINDING


def test_a_run_has_a_line_a_row_and_parameter(run):
    found = table(run)
    assert found["parameter"].tolist() == ["weight", "bias"] * len(run.steps.first)
    assert found["step"].tolist() == [step for step in run.steps.first for _ in range(2)]
    assert found["loss_max"][::2].tolist() == run.steps.scalar(Scalar.LOSS)[1].tolist()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_each_library_takes_each_of_them(package, run):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install {package}")
    diagnosis = SAMPLES["vanishing"]()
    for record in (diagnosis, diagnosis.traces[0], run, Diagnosis(())):
        frame = getattr(record, f"to_{package}")()
        wanted = table(record)
        assert list(frame.columns) == list(wanted)
        assert len(frame) == len(wanted[next(iter(wanted))])


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_a_library_that_is_missing_is_one_sentence(package, monkeypatch):
    def without(name, *rest):
        if name == package:
            raise ModuleNotFoundError(name)
        return found(name, *rest)

    found = importlib.import_module
    monkeypatch.setattr("gradtrace.report.frames.importlib.import_module", without)
    with pytest.raises(InputError, match=f"a {package} table needs {package}: pip install {package}"):
        getattr(SAMPLES["healthy"](), f"to_{package}")()
