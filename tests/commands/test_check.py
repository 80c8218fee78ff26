"""Exit codes, sentences and streams of `gradtrace check`."""

from __future__ import annotations

import json

import pytest
from tests.commands.calling import run
from tests.report.samples import SAMPLES

from gradtrace.errors import InputError
from gradtrace.records.finding import Diagnosis, Finding
from gradtrace.records.storage import load
from gradtrace.records.vocabulary import Cause, Severity, Symptom


def finding_of(severity: Severity) -> Diagnosis:
    return Diagnosis((Finding(Symptom.VANISHING, Cause.SMALL_WEIGHTS, ("a",), severity, "It is small."),))


def test_healthy_is_0_and_one_line(net, verdict):
    result = run("check", "net.py:build")
    assert result.exit_code == 0, result.output
    assert "Healthy: layers.0 (Linear) gets" in result.stdout
    assert "building" not in result.stdout
    assert "building" in result.stderr


@pytest.mark.parametrize("fail_on", list(Severity))
@pytest.mark.parametrize("severity", list(Severity))
def test_findings_at_or_above_fail_on_are_1(net, verdict, severity, fail_on):
    verdict["diagnosis"] = finding_of(severity)
    assert run("check", "net.py:build", "--fail-on", fail_on.value).exit_code == int(severity.rank >= fail_on.rank)


def test_json_is_all_there_is_on_stdout(net, verdict):
    verdict["diagnosis"] = SAMPLES["vanishing"]()
    result = run("check", "net.py:build", "--format", "json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["findings"][0]["symptom"] == "vanishing"
    assert json.loads(result.stdout)["title"] == "net.py:build"


def test_annotations_are_all_there_is_on_stdout(net, verdict):
    assert run("check", "net.py:build", "--format", "github").stdout == ""
    verdict["diagnosis"] = finding_of(Severity.WARNING)
    result = run("check", "net.py:build", "--format", "github")
    assert (result.exit_code, result.stdout) == (1, "::warning title=GT103 vanishing::It is small.\n")


def test_options_reach_check(net, verdict):
    run("check", "net.py:with_optimizer", "--steps", "7", "--accumulate", "2")
    (_, _, batches, options) = verdict["calls"][0]
    assert len(batches) == 1
    assert (options["steps"], options["accumulate"]) == (7, 2)
    assert type(options["optimizer"]).__name__ == "SGD"


def test_the_seed_fixes_the_factory(net, verdict):
    for seed in ("1", "1", "2"):
        assert run("check", "net.py:build", "--seed", seed).exit_code == 0
    weights = [call[0].weight.sum().item() for call in verdict["calls"]]
    assert weights[0] == weights[1] != weights[2]


def test_the_trace_is_saved_and_shown(net, verdict, tmp_path):
    result = run("check", "net.py:build", "--save-trace", "trace.json.gz")
    assert result.exit_code == 0
    assert load("trace.json.gz") == SAMPLES["healthy"]().traces[0]
    shown = run("show", "trace.json.gz")
    assert shown.exit_code == 0
    assert "layers.0" in shown.stdout


def test_a_trace_that_cannot_be_saved_is_2(net, verdict):
    result = run("check", "net.py:build", "--save-trace", "nowhere/trace.json.gz")
    assert result.exit_code == 2
    assert "cannot write nowhere/trace.json.gz" in result.stderr
    verdict["diagnosis"] = Diagnosis(())
    assert "no trace to save" in run("check", "net.py:build", "--save-trace", "trace.json.gz").stderr


def test_input_errors_of_check_are_2(net, verdict):
    verdict["diagnosis"] = InputError("the loss has no gradient")
    result = run("check", "net.py:build")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "gradtrace: the loss has no gradient\n" in result.stderr


def test_a_fault_of_ours_is_neither_0_nor_1_nor_2(net, verdict):
    verdict["diagnosis"] = KeyError("oops")
    result = run("check", "net.py:build")
    assert result.exit_code == 3
    assert "fault of gradtrace" in result.stderr


@pytest.mark.parametrize(("severity", "line"), [
    (None, "Healthy: no findings."),
    (Severity.INFO, "Healthy: 1 finding, 1 info (gradtrace explain GT103)."),
    (Severity.CRITICAL, "Unhealthy: 1 finding, 1 critical (gradtrace explain GT103)."),
])  # fmt: skip
def test_the_last_line_is_the_verdict(net, verdict, severity, line):
    verdict["diagnosis"] = Diagnosis(()) if severity is None else finding_of(severity)
    assert run("check", "net.py:build").stdout.splitlines()[-1] == line
    assert line not in run("check", "net.py:build", "--format", "json").stdout


def test_steps_ask_the_factory_for_an_optimizer(net):
    result = run("check", "net.py:build", "--steps", "3")
    assert result.exit_code == 2
    assert "--steps needs an optimizer: net.py:build must return it as the fourth" in result.stderr
