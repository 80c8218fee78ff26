"""Does the loss gradient reach the early steps of a recurrence, and how far back could any gradient reach?

Judged on |L'(h_t)|, step by step, of nn.RNN, nn.LSTM, nn.GRU, their cells, and loops of the user's own that take in
something new at each step (a loop that does not is judged as depth is). The gradient of the early tenth of the states
against the late tenth, in the mildest batch; a random gradient must fare alike, or the loss is what makes the
difference and not the recurrence. Where losses at every step keep the early states alive, a horizon shorter than the
sequence is told, and no fault.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gradtrace.diagnosis.gate import gates_take_most
from gradtrace.diagnosis.objectives import objectives
from gradtrace.diagnosis.recurrences import Layer, flattening_data, layers, worst_of
from gradtrace.diagnosis.rules.loss import learnt_without, of_constant
from gradtrace.diagnosis.scene import is_finite, make_view
from gradtrace.diagnosis.thresholds import CLEAR_DECADES, SEQUENCE_ENDS
from gradtrace.diagnosis.wording import EXTENT_STEPS, NUM_STEPS, between_ends, decades, steps, times
from gradtrace.measure.names import python_of
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import (
    FACTOR_BELOW_ONE,
    at_hand,
    clip_at,
    detach_less,
    of_weight,
    remedies_for,
    remedies_in_time,
)

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene, View
    from gradtrace.records.finding import Remedy
    from gradtrace.records.horizon import Horizon
    from gradtrace.records.time import Chain, ThroughTime
    from gradtrace.records.trace import Trace


@dataclass(frozen=True, slots=True)
class _Measured:
    """One layer on one batch, beside what was measured on the first batch alone: horizon and exponent."""

    layer: Layer
    horizon: Horizon
    extent: float
    record: ThroughTime
    exponent: float | None
    source: str
    weight: str
    """Name of the only weight of a loop of the user's, a square one; '' where it has others, or is a module's."""
    gated: bool
    """Whether it is a loop of the user's whose gates take most of the gradient: its weights are not to blame."""
    data_rms: float
    """Of the data that it is fed with, if they are large and what they flatten takes most of the gradient; else 0."""

    @property
    def reaches_back(self) -> bool:
        """Whether a random gradient reaches over all the steps that the loss gradient travels."""
        return self.horizon.steps >= self.layer.num_steps

    @property
    def growth(self) -> float:
        """Decades that a random gradient gains over these steps."""
        return self.horizon.decades_per_step * self.layer.num_steps


def judge(scene: Scene) -> list[Finding]:
    """What shrinks and what grows through time, each in the worst module; what is cut; else a horizon that is short."""
    if not scene.views or any(view.trace.through_time is None for view in scene.views):
        return []
    batches = [_measured(view, scene.views[0].trace) for view in scene.views]
    lost = _changed(batches, -1, scene.limits.vanishing_decades)
    lost = [replace(f, evidence=(*f.evidence, *of_constant(scene.views[0]))) for f in lost]
    if lost and (learnt := _learnt_without(scene)):
        lost = [replace(f, severity=Severity.INFO, message=f"{f.message} {learnt}") for f in lost]
    found = [*lost, *_changed(batches, 1, scene.limits.exploding_decades)]
    return [*found, *_cut(batches[0]), *([] if found else _short(batches[0]))]


def needs_unseen(scene: Scene) -> bool:
    """Whether the early steps get too little, and it can be seen if this data asks for them."""
    if not scene.views or not all(map(objectives, scene.views)):
        return False
    return any(f.symptom is Symptom.VANISHING and f.severity is not Severity.INFO for f in judge(scene))


def is_undecided(scene: Scene) -> bool:
    """Whether the batch held out is predicted better than by a constant by now, though not by half."""
    tried = scene.exhibit.unseen
    if tried is None or tried.after is None or not is_finite(tried.after) or not needs_unseen(scene):
        return False
    return all(one.value < one.constant for one in objectives(make_view(tried.after)))


def _learnt_without(scene: Scene) -> str:
    """How far known losses of a batch held out are below a constant's after steps on a copy; '' where not by half."""
    tried = scene.exhibit.unseen
    if tried is None or tried.after is None or not is_finite(tried.after):
        return ""
    what = f"after {steps(tried.num_steps)} on a copy the loss of a batch held out"
    return learnt_without(make_view(tried.after), what)


def _measured(view: View, first: Trace) -> list[_Measured]:
    trace = view.trace
    record, reference = trace.through_time, first.through_time
    assert record is not None
    assert reference is not None
    found = []
    for layer in layers(record):
        chain = worst_of(layer, reference)
        horizon = (chain.horizon or chain.own_horizon) if chain is not None else None
        if chain is not None and horizon is not None and not math.isnan(horizon.steps):
            extent = layer.extent(horizon.decades_per_step)
            spectrum = reference.spectrum_of(chain)
            source = next((op.site.source for op in trace.ops if op.site.module == chain.module), "")
            exponent = spectrum.largest if spectrum is not None else None
            gated = chain.kind == "loop" and gates_take_most(view.trace, view.paths)
            weight, data_rms = _weight(chain, trace), flattening_data(chain, view)
            found.append(_Measured(layer, horizon, extent, record, exponent, source, weight, gated, data_rms))
    return found


def _weight(chain: Chain, trace: Trace) -> str:
    known = {p.name for p in trace.parameters if len(p.shape) == 2 and p.shape[0] == p.shape[1]}  # or inputs are in it
    names = (f"{chain.module}.weight", chain.module) if chain.num_weights == 1 and not chain.module_type else ()
    return next((name for name in names if name in known), "")


# ---------------------------------------------------------------------------------------------- vanishing, exploding


def _changed(batches: list[list[_Measured]], sign: int, limit: float) -> list[Finding]:
    worst = []
    for batch in batches:
        candidates = [m for m in batch if (not m.reaches_back if sign < 0 else m.growth >= limit)]
        if not candidates:
            return []
        worst.append(max(candidates, key=lambda m: sign * m.extent))
    mildest = min(worst, key=lambda m: sign * m.extent)
    return [_change(mildest, sign)] if sign * mildest.extent >= limit else []


def _change(measured: _Measured, sign: int) -> Finding:
    lost = sign < 0
    symptom = Symptom.VANISHING if lost else Symptom.EXPLODING
    contracts = Cause.INPUT_SCALE if measured.data_rms else Cause.RECURRENT_CONTRACTION
    cause = contracts if lost else Cause.RECURRENT_EXPANSION
    size, chain = abs(measured.extent), measured.layer.worst
    num_steps, threshold = measured.layer.num_steps, _threshold(measured)
    rate = "" if math.isinf(size) else f" ({decades(size / between_ends(num_steps))} per step)"
    ends = "the last tenth to the first" if num_steps >= SEQUENCE_ENDS else "the last to the first"
    head = (
        f"Through time the loss gradient {'shrinks' if lost else 'grows'} {times(size)} from {ends} of "
        f"{num_steps} steps of {chain.name}{rate}."
    )
    if lost:
        what = "Any gradient" if chain.reach is not None else "It"
        tail = f" {what} falls 1000-fold in {steps(measured.horizon.steps)}: {_cannot(measured.horizon)}."
        if measured.data_rms:
            tail += f" The input has a root mean square of {measured.data_rms:.3g}, where about 1 is expected."
    else:
        tail = (
            f" Without that growth its norm would be about {threshold:.2g}; it is {measured.record.gradient_norm:.2g}."
        )
    return Finding(
        symptom=symptom,
        cause=cause,
        where=(chain.module,),
        severity=Severity.CRITICAL if size >= CLEAR_DECADES else Severity.WARNING,
        message=head + tail,
        evidence=(*_evidence(measured), *([] if lost else [Evidence("clipping threshold", threshold)])),
        remedies=_remember(measured) if lost else (clip_at(threshold), *_grow_less(chain)),
        source=measured.source,
    )


def _grow_less(chain: Chain) -> tuple[Remedy, ...]:
    """What keeps a step from multiplying: a loop of the user's may have a factor for each entry, and no matrix."""
    found = remedies_for(Symptom.EXPLODING, Cause.RECURRENT_EXPANSION)[1:]
    return (FACTOR_BELOW_ONE, *found) if chain.kind == "loop" else found


def _remember(measured: _Measured) -> tuple[Remedy, ...]:
    """What makes it remember, for the names at hand: of a loop of the user's the weight, where it is one."""
    chain, weight = measured.layer.worst, measured.weight
    if measured.data_rms:
        return remedies_for(Symptom.VANISHING, Cause.INPUT_SCALE)
    if measured.gated:
        return tuple(at_hand(remedy, "", "", chain.num_steps) for remedy in remedies_in_time("gated loop"))
    found = remedies_in_time(chain.kind)
    if not chain.module_type:
        return tuple(of_weight(remedy, python_of(weight)) for remedy in found) if weight else found
    of_cell = "Cell" in chain.module_type
    suffix = "" if of_cell else f"_l{chain.layer}" + ("_reverse" if chain.direction == "backward" else "")
    return tuple(at_hand(remedy, python_of(chain.module), suffix, chain.num_steps) for remedy in found)


def _cannot(horizon: Horizon) -> str:
    return f"dependencies longer than {steps(horizon.steps)} cannot be learnt"


def _threshold(measured: _Measured) -> float:
    """The norm that the gradient of all parameters would have if time did not make it grow."""
    shrunk = math.log10(measured.record.gradient_norm or 1.0) - measured.extent
    return 10.0**shrunk if math.isfinite(shrunk) and shrunk > -300 else 0.0


def _evidence(measured: _Measured) -> list[Evidence]:
    chain, horizon, exponent = measured.layer.worst, measured.horizon, measured.exponent
    per_step = [
        Evidence(f"{name} per step", gain / max(len(chain.counted), 1), "decades")
        for name, gain in zip(("activations", "recurrent weights"), chain.budget().values(), strict=False)
    ]
    return [
        Evidence(EXTENT_STEPS, measured.extent, "decades"),
        Evidence(NUM_STEPS, chain.num_steps, "steps"),
        Evidence("horizon (1e-3)", horizon.steps, "steps"),
        Evidence("horizon (half)", horizon.half_steps, "steps"),
        *([Evidence("a random gradient per step", horizon.decades_per_step, "decades")] if chain.reach else []),
        *per_step,
        *([] if exponent is None else [Evidence("largest Lyapunov exponent", exponent, "nats per step")]),
    ]


# ----------------------------------------------------------------------------------------------- horizon, detached


def _short(batch: list[_Measured]) -> list[Finding]:
    """Healthy, and yet: what lies further back than the horizon is not learnt."""
    short = [m for m in batch if m.horizon.steps < m.layer.worst.num_steps and not m.layer.worst.cuts]
    if not short:
        return []
    worst = min(short, key=lambda m: m.horizon.steps / m.layer.worst.num_steps)
    chain = worst.layer.worst
    fed = "Early steps get gradient from elsewhere, so that training moves"
    if worst.layer.starved_inside:
        fed = "Each end is near the final state of one direction, and what lies between gets next to nothing"
    message = (
        f"A gradient at {chain.name} falls 1000-fold in {steps(worst.horizon.steps)} back in time; the sequence has "
        f"{chain.num_steps}. {fed}; with the weights as they are, {_cannot(worst.horizon)}."
    )
    return [
        Finding(
            symptom=Symptom.VANISHING,
            cause=Cause.RECURRENT_CONTRACTION,
            where=tuple(dict.fromkeys(m.layer.worst.module for m in [worst, *short])),
            severity=Severity.INFO,
            message=message,
            evidence=tuple(_evidence(worst)),
            source=worst.source,
        )
    ]


def _cut(batch: list[_Measured]) -> list[Finding]:
    """States that are handed on detached, where the gradient would have gone further."""
    findings = []
    for measured in batch:
        chain, horizon = measured.layer.worst, measured.horizon
        cuts = (0, *chain.cuts, chain.num_steps)
        stretch = max(b - a for a, b in itertools.pairwise(cuts))
        asked = min(horizon.steps, chain.num_steps) if chain.cuts else horizon.steps
        if (chain.cuts or chain.detached_start) and stretch < asked:  # else truncated, and nothing is lost by it
            findings.append(_cut_finding(measured, chain, stretch, _starved(chain)))
    return findings[:1]


def _starved(chain: Chain) -> int:
    """Steps up to the last state that is read which lie in stretches that get no gradient at all."""
    last = chain.span[1]
    cuts = (0, *(cut for cut in chain.cuts if cut < last), last)
    stretches = [(a, b) for a, b in itertools.pairwise(cuts) if not any(chain.states[a + 1 : b + 1])]
    return sum(b - a for a, b in stretches)


def _cut_finding(measured: _Measured, chain: Chain, stretch: int, starved: int) -> Finding:
    horizon = measured.horizon
    far = "over the whole sequence" if horizon.steps > chain.num_steps else f"{steps(horizon.steps)} back"
    if not chain.cuts:
        message = (
            f"The state comes into {chain.name} detached: gradient ends with these {steps(stretch)}, and would reach "
            f"further ({steps(horizon.steps)} to a thousandth). Truncated back-propagation, if that is meant."
        )
    else:
        shown = ", ".join(map(str, chain.cuts[:3])) + (", ..." if len(chain.cuts) > 3 else "")
        message = (
            f"The state of {chain.name} is detached behind step {shown}: gradient ends there, and would reach {far}."
        )
    if starved:
        message += f" {starved} of {chain.num_steps} steps get no gradient at all."
    elif chain.cuts and stretch == 1:
        message += " No step learns from the one behind it."
    elif chain.cuts:
        message += " Truncated back-propagation, if that is meant: every stretch has its own losses."
    fault = bool(starved) or (bool(chain.cuts) and stretch == 1)
    return Finding(
        symptom=Symptom.DISCONNECTED,
        cause=Cause.DETACHED_GRAPH,
        where=(chain.module,),
        severity=Severity.WARNING if fault else Severity.INFO,
        message=message,
        evidence=(
            Evidence("steps between cuts", stretch, "steps"),
            Evidence("horizon (1e-3)", horizon.steps, "steps"),
            Evidence(NUM_STEPS, chain.num_steps, "steps"),
            Evidence("steps without gradient", starved, "steps"),
        ),
        remedies=(detach_less(min(horizon.steps, chain.num_steps)),) if fault else (),
        source=measured.source,
    )
