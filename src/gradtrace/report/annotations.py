"""What does GitHub show beside the lines of a pull request? One workflow command per finding.

    ::error file=net.py,line=12,title=GT101 vanishing::message

Source: docs.github.com, Workflow commands for GitHub Actions; ``%``, line breaks, and in properties ``:`` and ``,``
are percent-encoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.records.vocabulary import Severity

if TYPE_CHECKING:
    from gradtrace.records.finding import Diagnosis, Finding

_LEVELS = {Severity.INFO: "notice", Severity.WARNING: "warning", Severity.CRITICAL: "error"}


def annotate(diagnosis: Diagnosis) -> str:
    """A line per finding, the root cause first; '' where there is none.

    >>> from gradtrace.records.finding import Diagnosis, Finding
    >>> from gradtrace.records.vocabulary import Cause, Severity, Symptom
    >>> cut = Finding(Symptom.VANISHING, Cause.NONE, (), Severity.WARNING, "50 % is left.", source="net.py:3")
    >>> annotate(Diagnosis((cut,)))
    '::warning file=net.py,line=3,title=GT100 vanishing::50 %25 is left.'
    """
    return "\n".join(map(_annotation, diagnosis.findings))


def _annotation(finding: Finding) -> str:
    file, _, line = finding.source.rpartition(":")
    place = [f"file={_property(file.replace(chr(92), '/'))}", f"line={line}"] if file and line.isdigit() else []
    title = _property(f"{finding.code} {finding.symptom.value.replace('_', ' ')}")
    return f"::{_LEVELS[finding.severity]} {','.join([*place, f'title={title}'])}::{_data(finding.message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
