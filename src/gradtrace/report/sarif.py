"""What does code scanning read? SARIF 2.1.0: a rule per code, a result per finding, the gradient's way as a code flow.

Source: OASIS, Static Analysis Results Interchange Format 2.1.0 (errata 01); what GitHub shows of it: docs.github.com,
SARIF support for code scanning. Every result has a place, since GitHub leaves out those that have none: the layer's
line, or else the file of the target.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from gradtrace.measure.ledger import ledger
from gradtrace.records.codes import meaning_of
from gradtrace.records.parameter_name import module_in
from gradtrace.records.vocabulary import Severity
from gradtrace.report.checked import Checked, fingerprint, place_of
from gradtrace.report.explanation import Explanation, of_code
from gradtrace.report.sarif_fix import fix_of
from gradtrace.report.tables import main_trace
from gradtrace.report.words import decades

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from gradtrace.measure.ledger import LedgerRow
    from gradtrace.records.finding import Finding
    from gradtrace.records.trace import Trace

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS = {Severity.INFO: "note", Severity.WARNING: "warning", Severity.CRITICAL: "error"}
MOST_LOCATIONS = 100
"""Of one code flow: what a reader may step through."""
_PROBLEMS = {Severity.INFO: "recommendation", Severity.WARNING: "warning", Severity.CRITICAL: "error"}


def sarif(checked: Sequence[Checked], root: Path, version: str, *, has_baseline: bool = False) -> str:
    """One run with all targets; URIs are relative to `root`, the repository's."""
    told = [(each, finding) for each in checked for finding in each.diagnosis.findings]
    codes = list(dict.fromkeys(finding.code for _, finding in told))
    worst = {code: max((f.severity for _, f in told if f.code == code), key=lambda s: s.rank) for code in codes}
    results = [_result(each, finding, codes, root, has_baseline) for each, finding in told]
    driver = {"name": "gradtrace", "version": version, "rules": [_rule(code, worst[code]) for code in codes]}
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "invocations": [{"executionSuccessful": True}],
        "results": results,
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False)


def _rule(code: str, severity: Severity) -> dict[str, Any]:
    meaning = meaning_of(code)
    assert meaning is not None
    symptom, cause = meaning
    told = of_code(symptom, cause)
    return {
        "id": code,
        "name": "".join(word.capitalize() for word in f"{symptom.value}_{cause.value}".split("_")),
        "shortDescription": {"text": told.title.removeprefix(code).strip()},
        "fullDescription": {"text": " ".join(told.paragraphs)},
        "help": {"text": _help(told, markdown=False), "markdown": _help(told, markdown=True)},
        "defaultConfiguration": {"level": LEVELS[severity]},
        "properties": {
            "precision": "high",
            "problem.severity": _PROBLEMS[severity],
            "tags": ["gradient", symptom.value, cause.value],
        },
    }


def _help(told: Explanation, *, markdown: bool) -> str:
    parts = list(told.paragraphs)
    for remedy in told.remedies:
        parts.append(f"- {remedy.title}" + (f" ({remedy.source})" if remedy.source else ""))
        if remedy.code:
            parts.append(f"```python\n{remedy.code}\n```" if markdown else remedy.code)
    return "\n\n".join(parts)


def _result(each: Checked, finding: Finding, codes: list[str], root: Path, has_baseline: bool) -> dict[str, Any]:
    defined = place_of(f"{each.file}:1", root)
    place = place_of(finding.source, root) or defined
    target = each.target if defined is None else f"{defined[0]}:{each.target.rpartition(':')[2]}"
    told: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": codes.index(finding.code),
        "level": LEVELS[finding.severity],
        "message": {"text": _message(each.target, finding)},
        "locations": [{"physicalLocation": _physical(place)}] if place is not None else [],
        "partialFingerprints": {"primaryLocationLineHash": f"{fingerprint(target, finding)}:1"},
    }
    names = [{"fullyQualifiedName": path or "model", "kind": "member"} for path in finding.where]
    if names and told["locations"]:
        told["locations"][0]["logicalLocations"] = names
    if flow := list(_flow(each, finding, root)):
        told["codeFlows"] = [{"message": {"text": "the gradient's way"}, "threadFlows": [{"locations": flow}]}]
    if each.repair is not None and finding is _to_repair(each) and (fix := fix_of(each.repair, root)) is not None:
        told["fixes"] = [fix]
    if has_baseline:
        is_known = finding in each.known
        told["baselineState"] = "unchanged" if is_known else "new"
        told["suppressions"] = [{"kind": "external", "justification": "in the baseline"}] if is_known else []
    return told


def _to_repair(each: Checked) -> Finding | None:
    """The first that is a fault: the root cause, which changes are tried for. Of one patch there is one fix."""
    faults = (finding for finding in each.diagnosis.findings if finding.severity is not Severity.INFO)
    return next(faults, None)


def _message(target: str, finding: Finding) -> str:
    """A sentence of the finding, and what to change first."""
    change = f" To change: {finding.remedies[0].title}" if finding.remedies else ""
    return f"{finding.message}{change} ({target})"


def _physical(place: tuple[str, int]) -> dict[str, Any]:
    file, line = place
    return {"artifactLocation": {"uri": quote(file)}, "region": {"startLine": line}}


def _flow(each: Checked, finding: Finding, root: Path) -> Iterator[dict[str, Any]]:
    """From the loss to the earliest place to blame, a location per layer whose line is known."""
    trace = main_trace(each.diagnosis)
    rows = ledger(trace) if trace is not None else ()
    places = {*finding.where}
    last = max((i for i, row in enumerate(rows) if trace is not None and _is_at(row, trace, places)), default=-1)
    for i in thinned(last + 1):
        place = place_of(rows[i].source, root)
        if place is not None:
            text = rows[i].module or "model"
            own = sum(gain for _, gain in rows[i].gains)
            if not math.isnan(own):  # behind a NaN nothing is lost or gained
                text += f": {decades(rows[i].product_log10)} decades behind it, {decades(own)} of its own"
            yield {"location": {"physicalLocation": _physical(place), "message": {"text": text}}}


def _is_at(row: LedgerRow, trace: Trace, places: set[str]) -> bool:
    """Whether one of its ops, or of their weights, lies at one of the places."""
    ops = [trace.ops[i] for i in row.ops]
    inside = {op.site.module for op in ops} | {name for op in ops for name in op.weights}
    owners = {module_in(name) for op in ops for name in op.weights}
    return not places.isdisjoint({row.module, *inside, *owners})


def thinned(number: int) -> list[int]:
    """At most `MOST_LOCATIONS` of so many, evenly, the last one always.

    >>> thinned(3), len(thinned(1000)), thinned(1000)[-1]
    ([0, 1, 2], 100, 999)
    """
    if number <= MOST_LOCATIONS:
        return list(range(number))
    return [round(i * (number - 1) / (MOST_LOCATIONS - 1)) for i in range(MOST_LOCATIONS)]
