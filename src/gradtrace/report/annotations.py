"""What does GitHub show beside the lines of a pull request? One workflow command per finding.

    ::error file=net.py,line=12,title=GT101 vanishing::message

Source: docs.github.com, Workflow commands for GitHub Actions; ``%``, line breaks, and in properties ``:`` and ``,``
are percent-encoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.records.vocabulary import Severity
from gradtrace.report.checked import Checked, place_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gradtrace.records.finding import Finding

_LEVELS = {Severity.INFO: "notice", Severity.WARNING: "warning", Severity.CRITICAL: "error"}


def annotate(checked: Sequence[Checked], root: Path) -> str:
    """A line per new finding, the root cause first, its file relative to `root`, the repository's; '' without any.

    >>> from pathlib import Path
    >>> from gradtrace.records.finding import Diagnosis, Finding
    >>> from gradtrace.records.vocabulary import Cause, Severity, Symptom
    >>> cut = Finding(Symptom.VANISHING, Cause.NONE, (), Severity.WARNING, "50 % is left.", source="net.py:3")
    >>> annotate([Checked("net.py:build", Diagnosis((cut,)))], Path.cwd())
    '::warning file=net.py,line=3,title=GT100 vanishing::50 %25 is left.'
    """
    return "\n".join(_annotation(finding, root) for each in checked for finding in each.new)


def _annotation(finding: Finding, root: Path) -> str:
    found = place_of(finding.source, root)
    place = [f"file={_property(found[0])}", f"line={found[1]}"] if found is not None else []
    title = _property(f"{finding.code} {finding.symptom.value.replace('_', ' ')}")
    return f"::{_LEVELS[finding.severity]} {','.join([*place, f'title={title}'])}::{_data(finding.message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
