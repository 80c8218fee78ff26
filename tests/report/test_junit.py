"""JUnit's XML, read back by a parser."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from gradtrace.records.finding import Diagnosis, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.report.checked import Checked
from gradtrace.report.junit import junit


def finding(severity=Severity.WARNING, message="It is small.", source="net.py:3"):
    return Finding(Symptom.VANISHING, Cause.SMALL_WEIGHTS, ("a",), severity, message, source=source)


def suites(*checked, fail_on=Severity.WARNING):
    return ElementTree.fromstring(junit(checked, Path.cwd(), fail_on))


def test_a_target_is_a_suite_and_a_finding_a_case_that_failed():
    told = suites(Checked("net.py:build", Diagnosis((finding(),))), Checked("net.py:other", Diagnosis(())))
    first, second = told.findall("testsuite")
    assert (first.get("name"), first.get("tests"), first.get("failures")) == ("net.py:build", "1", "1")
    (case,) = first.findall("testcase")
    assert (case.get("name"), case.get("file"), case.get("line")) == ("GT103 vanishing in a", "net.py", "3")
    assert case.find("failure").get("message") == "It is small."
    assert (second.get("tests"), second.get("failures")) == ("1", "0")
    assert second.find("testcase").find("failure") is None


@pytest.mark.parametrize("fail_on", list(Severity))
@pytest.mark.parametrize("severity", list(Severity))
def test_it_fails_where_the_check_does(severity, fail_on):
    (case,) = suites(Checked("n", Diagnosis((finding(severity),))), fail_on=fail_on).iter("testcase")
    assert (case.find("failure") is not None) == (severity.rank >= fail_on.rank)


def test_what_the_baseline_holds_passes_and_is_told():
    old = finding()
    (case,) = suites(Checked("n", Diagnosis((old,)), (old,))).iter("testcase")
    assert case.find("failure") is None
    assert case.find("system-out").text.startswith("in the baseline: warning: It is small.")


def test_no_name_can_break_the_document():
    told = suites(Checked('<a "b">&\x00', Diagnosis((finding(message="\x1b[31m]]> & <b>\nsecond"),))))
    (failure,) = told.iter("failure")
    assert failure.text.splitlines()[-1] == "second"
