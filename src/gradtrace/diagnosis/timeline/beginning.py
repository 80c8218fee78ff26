"""Was what the first step did there before it?

A step of SGD is as long as the gradient. Where that grew 10^e-fold on its way, from an error that the forward pass had
made F times as large, the step would be 10^e F times shorter without the growth. If it replaced the weights as it was,
and would not have then, the growth is to blame for it and for what came of it; the rate would have done. So with inputs
far from unit scale, and with gradients of many passes that nobody divides by their number. What the weights
were replaced by stays, long after the gradients look like anybody's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.data_scale import input_rms, large_inputs
from gradtrace.diagnosis.layer import is_layer, owner, place
from gradtrace.diagnosis.ranking import GROWTH
from gradtrace.diagnosis.rules.loss import OF_CONSTANT
from gradtrace.diagnosis.scene import is_finite, make_scene
from gradtrace.diagnosis.step_cause import cause_of_steps, large_layers
from gradtrace.diagnosis.thresholds import (
    FALLEN_FACTOR,
    FITTED_FRAC,
    FOLLOWED_STEPS,
    LARGEST_SQUARED,
    SPIKE_WINDOW,
    SUM_FACTOR,
    UPDATE_HEALTHY,
    UPDATE_REPLACES,
)
from gradtrace.diagnosis.timeline.before import ratios_of_matrices
from gradtrace.diagnosis.timeline.losses import falls_since, followed, latest
from gradtrace.diagnosis.wording import CAUSES, STEP_RATIO, extent_of
from gradtrace.records.exhibit import Exhibit, Training
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import Scalar
from gradtrace.records.shown import counted
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for
from gradtrace.remedies.of_loops import DIVIDE_LOSS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.diagnosis.scene import View
    from gradtrace.records.finding import Remedy
    from gradtrace.records.run import Run
    from gradtrace.records.trace import Trace


@dataclass(frozen=True, slots=True)
class Beginning:
    """Why the first step replaced weights: growth that was there before it, or the data's scale."""

    cause: Cause
    where: tuple[str, ...]
    sentence: str
    growth: Finding | None = None
    """The first trace's."""
    remedies: tuple[Remedy, ...] = ()
    """Where they are others than the cause's and the growth's."""

    def explains(self, run: Run, finding: Finding) -> bool:
        """Whether steps that ran away, or what they left, came of it: soon after."""
        row = int(np.searchsorted(run.steps.first, finding.step or 0))
        return finding.cause is Cause.LEARNING_RATE and finding.step is not None and row <= SPIKE_WINDOW

    def instead(self, finding: Finding) -> Finding:
        """`finding` with its root in place of the rate."""
        own = remedies_for(finding.symptom, self.cause)
        return replace(
            finding,
            cause=self.cause,
            where=tuple(dict.fromkeys((*self.where[:1], *finding.where))),
            message=f"{finding.message} {self.sentence}",
            remedies=self.remedies or (self.growth.remedies if self.growth is not None else own),
        )

    def scar(self, run: Run) -> Finding | None:
        """The growth of the first trace, where the loss has not got over what the first step did with it."""
        if self.growth is None or self.growth.step is None or falls_since(run, self.growth.step):
            return None
        note = "The loss has not got over it: it has not halved since."
        return replace(self.growth, message=f"{self.growth.message} {note}")


def beginning(trace: Trace, found: Sequence[Finding], run: Run) -> Beginning | None:
    """What stood behind a first step that replaced weights; `trace` and `found` are that step's. None: nothing did."""
    ratios = ratios_of_matrices(run)[:1]
    ratios = ratios[np.isfinite(ratios)]
    adaptive = all(optimizer.adaptive for optimizer in run.header.optimizers)  # as long for any gradient
    if adaptive or not ratios.size or not ratios.max() > UPDATE_REPLACES or not is_finite(trace):
        return None
    ratio = float(ratios.max())
    scene = make_scene(Exhibit((trace,), optimizers=run.header.optimizers))
    view = scene.views[0]
    for growth in (f for f in found if f.symptom is Symptom.EXPLODING and f.cause in GROWTH):
        extent = extent_of(growth)
        without = ratio / 10**extent / forward_growth(view, 10**extent)
        if growth.severity is not Severity.INFO and without < UPDATE_REPLACES:
            told = (
                f"The first step moved weights by {ratio:.2g} times their size because of it; without, "
                f"it would have been {without:.1g}."
            )
            grave = replace(
                growth,
                severity=Severity.CRITICAL,
                message=f"{growth.message} {told}",
                evidence=(*growth.evidence, Evidence("update to weight ratio of the first step", ratio)),
            )
            why = CAUSES[growth.cause].partition(" ({where})")[0].rstrip(".")
            return Beginning(growth.cause, growth.where, f"It was there before the first step: {why}.", grave)
    added = passes_added(trace, run)
    if added > SUM_FACTOR and ratio / added < UPDATE_REPLACES:
        told = (
            f"The losses of a step's backward passes are added up, which makes them {added:.3g} times the first: "
            f"divided by their number, the first step would have moved weights by {ratio / added:.1g} of their size."
        )
        return Beginning(Cause.REDUCTION_SCALE, (), told, remedies=(DIVIDE_LOSS,))
    if cause_of_steps(scene, Training((), ())) is Cause.INPUT_SCALE:
        inputs = large_inputs(view)
        size = input_rms(inputs[0], view) if inputs else 0.0
        what = f"The input has a root mean square of {size:.3g}" if inputs else "The targets are far from the output"
        where = tuple(place(op, view.paths) for op in inputs) or ("targets",)
        return Beginning(Cause.INPUT_SCALE, where, f"{what}, where about 1 is expected: the gradient grows with it.")
    large = large_layers(view)
    if large and ratio / 10.0 > UPDATE_REPLACES:  # (a step of this kind is as long as the rate)
        output = next(op.forward.output_rms for op in view.trace.ops if is_layer(op) and op.forward is not None)
        told = (
            f"The weights are too large, layer by layer: they make an output of {output:.3g} of what comes in, and a "
            f"tenth of the rate would have replaced them as well (the first step moved them by {ratio:.2g} times their "
            "size)."
        )
        return Beginning(Cause.LARGE_WEIGHTS, tuple(place(op, view.paths) for op in reversed(large)), told)
    return None


def squared_away(trace: Trace, found: Sequence[Finding], run: Run) -> list[Finding]:
    """Weights whose first gradient has no square in float32; `trace` and `found` are the first step's.

    An adaptive step is as long for any gradient, as long as the mean of squares that it divides by is a number: once
    infinite it stays so, as b inf + (1 - b) g^2 is, and what it belongs to never moves again.
    """
    held = {name for one in run.header.optimizers if one.divides_by_squares for name in one.parameters}
    sizes = {
        p.name: p.gradient.max_abs
        for p in trace.parameters
        if p.gradient is not None and p.name in held and p.gradient.dtype == "float32"
    }
    lost = [name for name, size in sizes.items() if LARGEST_SQUARED < size < math.inf]
    if not lost or not is_finite(trace):
        return []
    worst = max(lost, key=lambda name: sizes[name])
    told = (
        f"At the first step the gradient of {worst} was as large as {sizes[worst]:.2g}, which has no square in "
        f"float32: the mean of squares that {run.header.optimizers[0].kind} divides by is infinite from then on, "
        f"and what it belongs to never moves again ({counted(len(lost), 'parameter')})."
    )
    evidence = (Evidence("largest entry of the gradient", sizes[worst]),)
    growth = next((f for f in found if f.symptom is Symptom.EXPLODING), None)
    if growth is not None:
        return [
            replace(
                growth,
                severity=Severity.CRITICAL,
                message=f"{growth.message} {told}",
                evidence=(*growth.evidence, *evidence),
            )
        ]
    return [
        Finding(
            symptom=Symptom.EXPLODING,
            cause=Cause.NUMERIC_FORMAT,
            where=tuple(dict.fromkeys(map(owner, lost))),
            severity=Severity.CRITICAL,
            message=f"{told} What makes the gradient that large is to be mended.",
            evidence=evidence,
            remedies=remedies_for(Symptom.EXPLODING, Cause.NUMERIC_FORMAT),
            step=0,
        )
    ]


def clear_before(found: Sequence[Finding], run: Run, onset: int) -> list[Finding]:
    """What was clear-cut in the first trace, `found`, where a NaN follows soon, at step `onset`: it was there before.

    A gradient that grows by three decades and more, or a loss without a minimum, is the first thing to mend; what else
    there was is told behind.
    """
    if int(np.searchsorted(run.steps.first, onset)) > SPIKE_WINDOW:
        return []
    clear = [f for f in found if f.severity is Severity.CRITICAL and f.symptom is not Symptom.NONFINITE]
    first = {*GROWTH, Cause.LOSS_FUNCTION}
    return [
        f if f.symptom is Symptom.EXPLODING and f.cause in first else replace(f, severity=Severity.WARNING)
        for f in clear
    ]


def forward_growth(view: View, backward: float) -> float:
    """By how much the error at the output is larger because the signal grew on its way there; at least 1.

    No more than sqrt(B) |dL/dy| says: it is one for unit errors, and bounded for cross entropy, whatever the output.
    Where what came in is not known, as inside a fused recurrence, the map grows forward by no more than `backward`.
    """
    layers = [op for op in view.trace.ops if is_layer(op) and op.received is not None]
    if not layers or layers[0].forward is None or layers[0].received is None:
        return 1.0
    given = layers[-1].forward
    grew = layers[0].forward.output_rms / max(given.input_rms if given is not None else 1.0, 1.0)
    error = math.sqrt(max(view.trace.batch_size or 1, 1)) * layers[0].received.norm
    return max(1.0, min(grew, error, backward if given is None else math.inf))


def raw_inputs(trace: Trace, run: Run) -> list[Finding]:
    """Inputs far from unit scale, by which alone the first step was a lot, where the loss has little to show for it.

    All gradients grow with the inputs, and what the first step did with the weights stays. Half of what the best
    constant gets is learnt all the same: a remark. `trace` is the first step's.
    """
    ratios = ratios_of_matrices(run)[:1]
    ratios = ratios[np.isfinite(ratios)]
    adaptive = all(optimizer.adaptive for optimizer in run.header.optimizers)
    if adaptive or not ratios.size or not is_finite(trace) or followed(run) < FOLLOWED_STEPS:
        return []
    view = make_scene(Exhibit((trace,), optimizers=run.header.optimizers)).views[0]
    inputs = large_inputs(view)
    size, ratio = (input_rms(inputs[0], view) if inputs else 1.0), float(ratios.max())
    constant, now = constant_of(trace, run), latest(run)
    if not ratio / size < UPDATE_HEALTHY < ratio or not constant or not math.isfinite(now):
        return []
    return [
        Finding(
            symptom=Symptom.EXPLODING,
            cause=Cause.INPUT_SCALE,
            where=tuple(dict.fromkeys(place(op, view.paths) for op in inputs)),
            severity=Severity.INFO if now * FALLEN_FACTOR <= constant else Severity.WARNING,
            message=f"The input has a root mean square of {size:.3g}, where about 1 is expected, and all gradients "
            f"grow with it: the first step moved weights by {ratio:.2g} of their size, where {UPDATE_HEALTHY:g} is a "
            f"lot; the loss is {now:.3g} by now, and a constant gets {constant:.3g}.",
            evidence=(
                Evidence("root mean square of the input", size),
                Evidence(STEP_RATIO, ratio),
                Evidence("loss", now),
                Evidence(OF_CONSTANT, constant),
            ),
            remedies=remedies_for(Symptom.EXPLODING, Cause.INPUT_SCALE),
            step=0,
        )
    ]


def passes_added(trace: Trace, run: Run) -> float:
    """How many times its first pass the loss of the first step is, where that is a known mean, undivided; else 1."""
    known = [op.objective for op in trace.ops if op.objective is not None]
    high = run.steps.scalar(Scalar.LOSS)[1]
    whole = len(known) == 1 and trace.loss and math.isclose(known[0].value, trace.loss, rel_tol=FITTED_FRAC)
    return float(high[0]) / trace.loss if whole and len(high) and math.isfinite(float(high[0])) else 1.0


def constant_of(trace: Trace, run: Run) -> float:
    """What the best constant gets in the loss of the run, of which the trace's is a part; 0: not known."""
    known = [op.objective for op in trace.ops if op.objective is not None]
    high = run.steps.scalar(Scalar.LOSS)[1]
    if len(known) != 1 or not trace.loss or not len(high) or not math.isfinite(float(high[0])):
        return 0.0
    return max(known[0].constant * float(high[0]) / trace.loss, 0.0)
