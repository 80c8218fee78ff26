"""What several targets came to, and what of it is new: what CI's formats (GitHub, SARIF, JUnit) are made from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradtrace.records.finding import Diagnosis, Finding
    from gradtrace.records.repair import Repair


@dataclass(frozen=True, slots=True)
class Checked:
    """One target's diagnosis."""

    target: str
    diagnosis: Diagnosis
    known: tuple[Finding, ...] = ()
    """Those of its findings that a baseline holds."""
    file: str = ""
    """Where the target is defined, as far as that is known."""
    repair: Repair | None = None
    """What was tried, and is proven."""

    @property
    def new(self) -> tuple[Finding, ...]:
        """Those that no baseline holds."""
        return tuple(finding for finding in self.diagnosis.findings if finding not in self.known)


_INSTALLED = {"site-packages", "dist-packages"}


def place_of(source: str, root: Path) -> tuple[str, int] | None:
    """File, relative to `root` with ``/``, and line of ``net.py:3``, which is relative to the current folder.

    None where it names no line, or one of a file of which no reader of the repository knows: one outside of `root`, or
    of a package that is installed inside of it.

    >>> place_of("net.py:3", Path.cwd())
    ('net.py', 3)
    >>> place_of("/elsewhere/net.py:3", Path.cwd()) is None
    True
    """
    file, _, line = source.rpartition(":")
    if not file or not line.isdigit() or int(line) < 1:
        return None
    path, root = Path(file.replace("\\", "/")), root.resolve()
    path = (Path.cwd() / path).resolve()
    is_known = path.is_relative_to(root) and _INSTALLED.isdisjoint(path.relative_to(root).parts)
    return (path.relative_to(root).as_posix(), int(line)) if is_known else None


def repository_root(folder: Path) -> Path:
    """The nearest folder above that version control begins at, or `folder` itself."""
    return next((one for one in (folder, *folder.parents) if (one / ".git").exists()), folder)


def fingerprint(target: str, finding: Finding) -> str:
    """The same for the same finding tomorrow, also where lines have moved and numbers have changed."""
    where = min(finding.where, default="")
    return hashlib.sha256(f"{target}\n{finding.code}\n{where}".encode()).hexdigest()[:16]
