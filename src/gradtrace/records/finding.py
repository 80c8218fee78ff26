"""The verdict: findings with their evidence, the remedies, and the diagnosis that ranks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.records.codes import code_of
from gradtrace.records.exhibit import UpdateStats
from gradtrace.records.trace import Trace
from gradtrace.records.vocabulary import Cause, Severity, Symptom

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import Console

    from gradtrace.records.time import ThroughTime
    from gradtrace.report.figures.paper import Columns


@dataclass(frozen=True, slots=True)
class Evidence:
    """One number that a finding rests on."""

    name: str
    value: float
    unit: str = ""
    """'decades', 'fraction', 'per layer', ... or '' for a pure number."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to change."""

    title: str
    """One imperative sentence."""
    code: str = ""
    """Lines to copy, or ''."""
    source: str = ""
    """Where it comes from (author, year)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A symptom, its cause, where it is, how much it matters, and the numbers that say so."""

    symptom: Symptom
    cause: Cause
    where: tuple[str, ...]
    """Module or parameter paths, the first to blame first; '' is the model itself."""
    severity: Severity
    message: str
    """One or two plain sentences with their numbers."""
    evidence: tuple[Evidence, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    source: str = ""
    """``file.py:12`` of the first place to blame, or ''."""
    step: int | None = None
    """Training step (from 0) at which it appeared; None: it is there from the start."""

    @property
    def code(self) -> str:
        """``GT101``, of symptom and cause: `gradtrace explain GT101` says what it is."""
        return code_of(self.symptom, self.cause)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Findings ranked with the root cause first, and the traces they rest on."""

    findings: tuple[Finding, ...]
    traces: tuple[Trace, ...] = ()
    losses: tuple[float, ...] = ()
    """Loss before the first optimizer step of ``steps=K`` and after each, or ()."""
    refusals: tuple[str, ...] = ()
    """Verdicts that were not given, and why: what they rest on was not seen."""
    title: str = ""
    updates: tuple[UpdateStats, ...] = ()
    """What the first optimizer step did to each parameter, on a copy; () without an optimizer."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps that ``steps=K`` took on a copy."""
        return max(len(self.losses) - 1, 0)

    @property
    def healthy(self) -> bool:
        """True without a finding of severity warning or above."""
        return all(finding.severity is Severity.INFO for finding in self.findings)

    @property
    def through_time(self) -> ThroughTime | None:
        """The first batch's gradient through time, where there is a recurrence."""
        return next((trace.through_time for trace in self.traces if trace.through_time is not None), None)

    def show(self, console: Console | None = None) -> None:
        """Print the picture and the findings to the terminal (or to a given rich console)."""
        from gradtrace.report.terminal import show

        show(self, console)

    def report(self, path: str | Path) -> None:
        """Write the report to `path`: one HTML file that needs no network."""
        from gradtrace.report.html import write_report

        write_report(path, self)

    def plot(self, *, columns: Columns = 1, axes: Axes | None = None) -> Figure:
        """The waterfall of its first trace for a paper, as `Trace.plot`: ``diagnosis.plot().savefig("x.pdf")``.

        Raises:
            InputError: there is nothing to draw, or matplotlib is not installed (``pip install '.[figures]'``).
        """
        from gradtrace.report.figures import plot_diagnosis

        return plot_diagnosis(self, columns=columns, axes=axes)

    def to_json(self) -> str:
        """The whole diagnosis as JSON text."""
        from gradtrace.records.storage import to_json

        return to_json(self)

    def _repr_html_(self) -> str:
        from gradtrace.report.notebook import to_html

        return to_html(self)
