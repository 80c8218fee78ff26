"""Workflow commands: nothing that a model is named can end one early or begin another."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradtrace.records.finding import Diagnosis, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.report.annotations import annotate
from gradtrace.report.checked import Checked


def told_of(*findings, known=(), root=None) -> str:
    return annotate([Checked("net.py:build", Diagnosis(findings), known)], root or Path.cwd())


def finding(message="It is small.", source="", severity=Severity.CRITICAL) -> Finding:
    return Finding(Symptom.DEAD_UNITS, Cause.SMALL_WEIGHTS, ("a",), severity, message, source=source)


@pytest.mark.parametrize(("severity", "level"), [*zip(Severity, ["notice", "warning", "error"], strict=True)])
def test_a_severity_is_a_level(severity, level):
    assert told_of(finding(severity=severity)).startswith(f"::{level} title=GT403 dead units::")


def test_no_findings_are_no_lines():
    assert told_of() == ""


def test_a_message_stays_one_line_and_a_file_one_property():
    told = told_of(finding("100 %\n::error::no", "a,b:c.py:7"), finding("second"))
    first, second = told.split("\n")
    assert first == "::error file=a%2Cb%3Ac.py,line=7,title=GT403 dead units::100 %25%0A::error::no"
    assert second.endswith("::second")


def test_files_are_relative_to_the_repository_and_those_of_others_are_left_out(tmp_path, monkeypatch):
    (tmp_path / "package").mkdir()
    monkeypatch.chdir(tmp_path / "package")
    assert told_of(finding(source="net.py:7"), root=tmp_path).startswith("::error file=package/net.py,line=7,")
    assert "file=" not in told_of(finding(source="/usr/lib/python3/torch/nn.py:7"), root=tmp_path)
    assert "file=" not in told_of(finding(source="../../net.py:7"), root=tmp_path)


def test_what_a_baseline_holds_is_no_annotation():
    old, new = finding("old"), finding("new")
    assert told_of(old, new, known=(old,)).endswith("::new")
