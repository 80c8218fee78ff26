"""Which findings were there before? A file that lists them, as linters have it: only what is new fails.

A finding is known by its target, its code and one of its places, so that a number that moves or a layer more in the
list does not make it new; one that has become worse is new.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from gradtrace.commands.outputs import BASELINE, check_baseline
from gradtrace.commands.target import seen_from
from gradtrace.errors import InputError
from gradtrace.records.vocabulary import Severity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from gradtrace.records.finding import Diagnosis, Finding
    from gradtrace.report.checked import Checked

_FORMAT = 1


def shown(path: Path) -> str:
    """As one would name it here."""
    return os.path.relpath(path)


def write_baseline(path: Path, checked: Sequence[Checked]) -> int:
    """All findings there are; returns how many."""
    entries = [
        {
            "target": seen_from(each.target, path.parent),
            "code": finding.code,
            "severity": finding.severity.value,
            "where": sorted(finding.where),
        }
        for each in checked
        for finding in each.diagnosis.findings
    ]
    entries.sort(key=lambda entry: (entry["target"], entry["code"], entry["where"]))
    check_baseline(path)
    text = json.dumps({BASELINE: _FORMAT, "findings": entries}, indent=2, ensure_ascii=False)
    try:
        path.write_text(f"{text}\n", "utf-8")
    except OSError as error:
        raise InputError(f"cannot write the baseline {shown(path)}: {error.strerror or error}") from error
    return len(entries)


class Baseline:
    """What a file lists; raises `InputError` where it is none of ours."""

    def __init__(self, path: Path) -> None:
        self.path, name = path, shown(path)
        told = f"write it first: gradtrace check --baseline {name} --write-baseline"
        try:
            read = json.loads(path.read_text("utf-8"))
            if read[BASELINE] != _FORMAT:
                raise InputError(f"the baseline {name} has format {read[BASELINE]}: it is of another version; {told}")
            self._entries = [_entry(one) for one in read["findings"]]
        except FileNotFoundError as error:
            raise InputError(f"there is no baseline {name}; {told}") from error
        except OSError as error:
            raise InputError(f"cannot read the baseline {name}: {error.strerror or error}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{name} is no baseline of gradtrace's; {told}") from error
        self._asked: set[str] = set()
        self._seen: set[int] = set()

    def known(self, target: str, diagnosis: Diagnosis) -> tuple[Finding, ...]:
        """Those of the findings that are listed."""
        target = seen_from(target, self.path.parent)
        self._asked.add(target)
        return tuple(finding for finding in diagnosis.findings if self._holds(target, finding))

    @property
    def num_gone(self) -> int:
        """Entries of the targets asked about that were not found again."""
        return sum(entry[0] in self._asked for entry in self._entries) - len(self._seen)

    def _holds(self, target: str, finding: Finding) -> bool:
        found = [i for i, entry in enumerate(self._entries) if _is_same(entry, target, finding)]
        self._seen.update(found)
        return any(finding.severity.rank <= self._entries[i][2].rank for i in found)


_Entry = tuple[str, str, Severity, frozenset[str]]


def _entry(read: Mapping[str, Any]) -> _Entry:
    return str(read["target"]), str(read["code"]), Severity(read["severity"]), frozenset(map(str, read["where"]))


def _is_same(entry: _Entry, target: str, finding: Finding) -> bool:
    same_place = not entry[3].isdisjoint(finding.where) or not (entry[3] or finding.where)
    return entry[:2] == (target, finding.code) and same_place
