"""Workflow commands: nothing that a model is named can end one early or begin another."""

from __future__ import annotations

import pytest

from gradtrace.records.finding import Diagnosis, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.report.annotations import annotate


def finding(message="It is small.", source="", severity=Severity.CRITICAL) -> Finding:
    return Finding(Symptom.DEAD_UNITS, Cause.SMALL_WEIGHTS, ("a",), severity, message, source=source)


@pytest.mark.parametrize(("severity", "level"), [*zip(Severity, ["notice", "warning", "error"], strict=True)])
def test_a_severity_is_a_level(severity, level):
    assert annotate(Diagnosis((finding(severity=severity),))).startswith(f"::{level} title=GT403 dead units::")


def test_no_findings_are_no_lines():
    assert annotate(Diagnosis(())) == ""


def test_a_message_stays_one_line_and_a_file_one_property():
    told = annotate(Diagnosis((finding("100 %\n::error::no", "a,b:c.py:7"), finding("second"))))
    first, second = told.split("\n")
    assert first == "::error file=a%2Cb%3Ac.py,line=7,title=GT403 dead units::100 %25%0A::error::no"
    assert second.endswith("::second")
