"""What a change may look at when it proposes itself: the network, its diagnosis, the first trace and its paths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import nn

from gradtrace.audit.arguments import Arguments, captured_input
from gradtrace.diagnosis.profile import Profile, profiles
from gradtrace.errors import InputError
from gradtrace.measure.path import Paths
from gradtrace.measure.untouched import untouched
from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom
from gradtrace.repair.twin import Twin, make_twin

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from gradtrace.records.finding import Diagnosis, Finding
    from gradtrace.records.trace import Op, Trace
    from gradtrace.repair.rewriting import Rule


USUAL_STEPS = 64
"""Of a trial whose length is not known yet: as many as a script's first run makes."""


@dataclass(frozen=True)
class Situation:
    """Everything that is known before the first change."""

    model: nn.Module
    loss_fn: Callable[[Any, Any], Any]
    batches: Sequence[Any]
    optimizers: Sequence[Optimizer]
    diagnosis: Diagnosis
    summed_over: float | None = None
    called_with: Arguments | None = None
    """What the model is called with, where `loss_fn` cannot be asked."""
    steps: int = USUAL_STEPS
    """Of a trial, about."""
    is_rate_ours: bool = False
    """No optimizer was given: the learning rate is one that a range test finds."""

    measured_by: tuple[Rule, ...] = ()
    """What the loss is rewritten by where networks are held against each other."""

    def twin(self, seed: int = 0) -> Twin:
        """A fresh copy."""
        twin = make_twin(self.model, self.loss_fn, self.optimizers, seed)
        twin.measured_by = self.measured_by
        return twin

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """Those that matter."""
        return tuple(f for f in self.diagnosis.findings if f.severity is not Severity.INFO)

    @cached_property
    def causes(self) -> tuple[Cause, ...]:
        """The causes found, the root first."""
        return tuple(dict.fromkeys(finding.cause for finding in self.findings))

    def has(self, symptom: Symptom) -> bool:
        """Whether a finding of this symptom matters."""
        return any(finding.symptom is symptom for finding in self.findings)

    def where(self, *causes: Cause) -> tuple[str, ...]:
        """Places to blame for any of these causes, the first to blame first."""
        return tuple(dict.fromkeys(p for f in self.findings if f.cause in causes for p in f.where))

    @property
    def trace(self) -> Trace:
        """Of the first batch."""
        return self.diagnosis.traces[0]

    @cached_property
    def paths(self) -> Paths:
        """Critical paths of the first trace."""
        return Paths(self.trace)

    @cached_property
    def profile(self) -> Profile | None:
        """The deepest way from the loss to a first layer."""
        try:
            return next(iter(profiles(self.trace, self.paths)), None)
        except (ArithmeticError, ValueError):
            return None  # of a trace that is not finite

    @cached_property
    def deficit(self) -> float | None:
        """Decades from the late layer to the first; None where there are no two layers."""
        return self.profile.decades_norm if self.profile is not None else None

    @cached_property
    def example(self) -> Arguments | None:
        """What the model is called with on the first batch."""
        if self.called_with is not None:
            return self.called_with
        try:
            with untouched(self.model):
                return captured_input(self.model, self.loss_fn, self.batches[0])
        except InputError:
            return None

    def activations(self) -> list[Op]:
        """Hidden non-linearities, those behind the last layer left out: an output belongs to its loss."""
        return [
            op
            for op in self.trace.ops
            if op.factor is Factor.ACTIVATION
            and op.activation is not None
            and op.site.module is not None
            and self.paths.depths[op.index] >= 1
        ]
