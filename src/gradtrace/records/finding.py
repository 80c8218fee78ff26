"""The verdict: findings with their evidence, the remedies, and the diagnosis that ranks them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.records.codes import code_of
from gradtrace.records.exhibit import UpdateStats
from gradtrace.records.shown import Columns, Kept, Tabular, counted, rendered
from gradtrace.records.trace import Trace
from gradtrace.records.vocabulary import Cause, Severity, Symptom

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gradtrace.records.time import ThroughTime


@dataclass(frozen=True, slots=True)
class Evidence:
    """One number that a finding rests on."""

    name: str
    value: float
    unit: str = ""
    """'decades', 'fraction', 'per layer', ... or '' for a pure number."""

    def __post_init__(self) -> None:
        if type(self.value) is not float:  # NumPy's scalars end here: a record holds Python's own numbers
            object.__setattr__(self, "value", float(self.value))


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

    def __post_init__(self) -> None:
        if self.step is not None and type(self.step) is not int:
            object.__setattr__(self, "step", int(self.step))

    @property
    def code(self) -> str:
        """``GT101``, of symptom and cause: `gradtrace explain GT101` says what it is."""
        return code_of(self.symptom, self.cause)


@dataclass(frozen=True, slots=True, repr=False)
class Diagnosis(Kept, Tabular):
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
    moved: tuple[str, ...] = ()
    """Thresholds that the project has moved, and why, a sentence each."""

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

    def __repr__(self) -> str:
        kinds = Counter(finding.severity for finding in self.findings)
        told = ", ".join(f"{kinds[severity]} {severity.value}" for severity in reversed(Severity) if kinds[severity])
        first = f" ({self.findings[0].symptom.value})" if self.findings else ""
        return f"<Diagnosis {self.title!r}: {told or 'no finding'}{first} over {counted(len(self.traces), 'trace')}>"

    def plot(self, *, columns: Columns = 1, axes: Axes | None = None) -> Figure:
        """The waterfall of its first trace for a paper, as `Trace.plot`: ``diagnosis.plot().savefig("x.pdf")``.

        Raises:
            InputError: there is nothing to draw, or matplotlib is not installed (``pip install '.[figures]'``).
        """
        figure: Figure = rendered(self, "plot", columns=columns, axes=axes)
        return figure

    def to_json(self) -> str:
        """The whole diagnosis as JSON text."""
        return str(rendered(self, "json"))
