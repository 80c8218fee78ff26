"""What does any CI show as tests? JUnit's XML: a suite per target, a case per finding, or one case that passed.

A finding is a failure from the severity on that fails the check, unless a baseline holds it. Source: the schema of
Jenkins' xUnit plugin, which what reads JUnit's format agrees on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

from gradtrace.report.checked import Checked, place_of
from gradtrace.report.words import clean, clean_lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gradtrace.records.finding import Finding
    from gradtrace.records.vocabulary import Severity


def junit(checked: Sequence[Checked], root: Path, fail_on: Severity) -> str:
    """All targets; files are relative to `root`, the repository's."""
    suites = ElementTree.Element("testsuites", name="gradtrace")
    for each in checked:
        findings = each.diagnosis.findings
        failing = [finding for finding in each.new if finding.severity.rank >= fail_on.rank]
        suite = ElementTree.SubElement(
            suites, "testsuite", name=clean(each.target), tests=str(max(len(findings), 1)), failures=str(len(failing)),
            errors="0", skipped="0",
        )  # fmt: skip
        for finding in findings:
            _case(suite, each, finding, root, fails=finding in failing)
        if not findings:
            ElementTree.SubElement(suite, "testcase", name="gradients", classname=clean(each.target))
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suites, encoding="unicode")


def _case(suite: ElementTree.Element, each: Checked, finding: Finding, root: Path, *, fails: bool) -> None:
    name = f"{finding.code} {finding.symptom.value} in {finding.where[0] or 'model' if finding.where else 'the run'}"
    case = ElementTree.SubElement(suite, "testcase", name=clean(name), classname=clean(each.target))
    if (place := place_of(finding.source, root)) is not None:
        case.set("file", place[0])
        case.set("line", str(place[1]))
    told = "\n".join([finding.message, *(f"To change: {remedy.title}" for remedy in finding.remedies)])
    if fails:
        failure = ElementTree.SubElement(case, "failure", type=finding.severity.value, message=clean(finding.message))
        failure.text = _lines(told)
    else:
        why = "in the baseline: " if finding in each.known else ""
        ElementTree.SubElement(case, "system-out").text = _lines(f"{why}{finding.severity.value}: {told}")


def _lines(text: str) -> str:
    return "\n".join(clean_lines(text))
