"""Does the number format round gradients or updates away?

A gradient in float16 below 2^-24 is zero; within three bits of that it has hardly a digit left. An update smaller than
half a unit in the last place of its weight (2^-9 of it in bfloat16, 2^-12 in float16) leaves the weight as it was; that
is weighed on trial steps, entry by entry: to first order a step of descent gains g^2 of each entry.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import owner
from gradtrace.diagnosis.thresholds import (
    FLUSH_BINS,
    FLUSHED_FRAC,
    HALF_FORMATS,
    LARGEST_SQUARED,
    SMALLEST_NORMAL,
    UNCHANGED_FRAC,
    UPDATE_USUAL,
)
from gradtrace.diagnosis.wording import percent
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.shown import counted
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene
    from gradtrace.records.exhibit import UpdateStats
    from gradtrace.records.trace import Op, ParameterStats, TensorStats, Trace


def judge(scene: Scene) -> list[Finding]:
    """Gradients flushed to zero, and updates that change nothing."""
    found = [_flushed(scene), _subnormal(scene), _unchanged(scene)]
    return [finding for finding in found if finding is not None]


def near_floor(stats: TensorStats) -> float:
    """Of the non-zero entries, the fraction within three bits of the smallest number of their format."""
    if stats.dtype not in HALF_FORMATS:
        return 0.0
    floor = HALF_FORMATS[stats.dtype][0]
    total = sum(count for _, count in stats.log2_counts)
    low = sum(count for exponent, count in stats.log2_counts if exponent < floor + FLUSH_BINS)
    return low / total if total else 0.0


def _flushed(scene: Scene) -> Finding | None:
    if not scene.views:
        return None
    trace = scene.views[0].trace
    ops = [op for op in trace.ops if op.received is not None and (_is_flushed(op) or _flushed_below(op, trace))]
    if not ops:
        return None
    names = tuple(dict.fromkeys(owner(op.parameter) if op.parameter else op.site.module or "" for op in ops))
    op = ops[0]
    narrow = next(stats for stats in (op.received, *op.passed) if stats is not None and stats.dtype in HALF_FORMATS)
    zeros = max(stats.zero_frac for stats in (op.received, *op.passed) if stats is not None)
    rest = ", and the rest has next to no digits left" if zeros < 1.0 else ""
    return Finding(
        symptom=Symptom.UNDERFLOW,
        cause=Cause.NUMERIC_FORMAT,
        where=names,
        severity=Severity.CRITICAL,
        message=f"Gradients in {narrow.dtype} sink below its smallest number (2^{HALF_FORMATS[narrow.dtype][0]}): at "
        f"{op.site} {percent(zeros)} are exactly zero{rest} ({counted(len(ops), 'op')}).",
        evidence=(
            Evidence("exact zeros", zeros, "fraction"),
            Evidence("near the smallest number", near_floor(narrow), "fraction"),
            Evidence("ops", len(ops), "ops"),
        ),
        remedies=remedies_for(Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT),
        source=op.site.source,
    )


def _is_flushed(op: Op) -> bool:
    """Most entries are at the floor, or all are gone although what arrived before was nearly so."""
    gradients = [stats for stats in (op.received, *op.passed) if stats is not None and stats.dtype in HALF_FORMATS]
    if any(stats.norm > 0.0 and near_floor(stats) > FLUSHED_FRAC for stats in gradients):
        return True
    if base_name(op.name) == "ToCopy" and any(_lost_in_cast(op, stats) > FLUSHED_FRAC for stats in gradients):
        return True
    return len(gradients) > 1 and op.received is not None and op.received.norm > 0.0 and _all_flushed(op)


def _lost_in_cast(op: Op, narrow: TensorStats) -> float:
    """Of the entries that were not zero before a cast, the fraction that is after it."""
    assert op.received is not None
    nonzero = 1.0 - op.received.zero_frac
    return (narrow.zero_frac - op.received.zero_frac) / nonzero if nonzero > 0.0 else 0.0


def _all_flushed(op: Op) -> bool:
    """A scaling that returns nothing at all: a layer, or a product with a constant, of non-zero times non-zero."""
    layer = bool(op.weights) or op.name.startswith(("Mul", "Div"))
    return layer and all(stats.norm == 0.0 for stats in op.passed if stats is not None)


def _flushed_below(op: Op, trace: Trace) -> bool:
    """Whether a layer passes exactly nothing to what feeds it, where |g W| <= |g| |W| is below the smallest number."""
    weights = [p.norm for p in trace.parameters if p.name in op.weights and len(p.shape) > 1]
    if op.received is None or not op.received.norm or not any(weights):
        return False
    for stats, target in zip(op.passed, op.targets, strict=True):
        if stats is None or target is None or stats.norm > 0.0 or stats.dtype not in HALF_FORMATS:
            continue
        if trace.ops[target[0]].parameter is None and not _of_weights(target[0], op, trace):
            bound = op.received.norm * max(weights) / math.sqrt(max(stats.numel, 1))
            return bound < 2.0 ** HALF_FORMATS[stats.dtype][0]
    return False


def _of_weights(index: int, layer: Op, trace: Trace) -> bool:
    """Whether an op is a view of one of the layer's own weights."""
    op = trace.ops[index]
    return any(t is not None and trace.ops[t[0]].parameter in layer.weights for t in op.targets)


def _subnormal(scene: Scene) -> Finding | None:
    """A loss so small that float32 holds it (and all gradients) with a few bits or none."""
    losses = [abs(trace.loss) for trace in scene.exhibit.traces if trace.probe == "loss"]
    if not losses or not all(0.0 < loss < SMALLEST_NORMAL for loss in losses):
        return None
    return Finding(
        symptom=Symptom.UNDERFLOW,
        cause=Cause.NUMERIC_FORMAT,
        where=("loss",),
        severity=Severity.CRITICAL,
        message=f"The loss is {losses[0]:.3g}, below the smallest number that float32 holds in full (2^-126): the "
        "gradient loses its digits or is zero. Scale the loss up, or take its logarithm.",
        evidence=(Evidence("loss", losses[0]),),
        remedies=remedies_for(Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT),
    )


def _would_train(parameter: ParameterStats, scene: Scene) -> bool:
    """Whether the gradient is of the weight's size, so that it is the learning rate alone that makes steps too small.

    That of a converged network is not. A rate of exactly zero is a schedule's.
    """
    if parameter.gradient is None or not parameter.norm > 0.0:
        return False
    rates = [one.learning_rate for one in scene.exhibit.optimizers if parameter.name in one.parameters]
    return bool(rates) and min(rates) > 0.0 and parameter.gradient.norm >= UPDATE_USUAL * parameter.norm


def needs_base_rate(scene: Scene) -> float:
    """By what to multiply a rate that a schedule holds back, where steps at the present one are rounded away; else 1.

    Warm-ups begin, and decays end, with steps that the weights do not feel: for a while, and by design.
    """
    held_back = max((one.held_back for one in scene.exhibit.optimizers), default=1.0)
    return held_back if held_back > 1.0 and _unchanged(scene) is not None else 1.0


def _unchanged(scene: Scene) -> Finding | None:
    training = scene.exhibit.unscheduled or scene.exhibit.training
    if training is None or not scene.exhibit.traces:
        return None
    parameters = scene.exhibit.traces[0].parameters
    halves = {p.name for p in parameters if p.dtype in HALF_FORMATS}
    wide = {p.name for p in parameters if p.name not in halves and _would_train(p, scene)}
    unchanged = [u for u in training.updates if u.unchanged_frac > UNCHANGED_FRAC]
    stuck = [u for u in unchanged if u.name in halves]
    rest = [u for u in unchanged if u.name in wide]
    stuck += rest if 2 * len(rest) > len(wide) else []  # a bias in front of a norm has no gradient but rounding errors
    if not stuck:
        return None
    if overflowing := [u for u in stuck if _squares_overflow(u.name, scene)]:
        return _squared_away(overflowing, scene)
    worst = max(stuck, key=lambda update: update.unchanged_frac)
    dtype = next(p.dtype for p in scene.exhibit.traces[0].parameters if p.name == worst.name)
    return Finding(
        symptom=Symptom.UNDERFLOW,
        cause=Cause.NUMERIC_FORMAT,
        where=tuple(dict.fromkeys(owner(update.name) for update in stuck)),
        severity=Severity.CRITICAL,
        message=f"Updates are rounded away: {dtype} weights are too coarse for this step size, and "
        f"of the gradient's square {percent(worst.unchanged_frac)} is on entries of {worst.name} that a step leaves as "
        "they are.",
        evidence=(
            Evidence("gradient's square on unchanged entries", worst.unchanged_frac, "fraction"),
            Evidence("parameters", len(stuck), "parameters"),
        ),
        remedies=remedies_for(Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT),
    )


def _squares_overflow(name: str, scene: Scene) -> bool:
    """Whether an adaptive optimizer squares a gradient that has no square in float32: it divides by infinity then."""
    divides = any(one.divides_by_squares and name in one.parameters for one in scene.exhibit.optimizers)
    stats = next((p.gradient for p in scene.exhibit.traces[0].parameters if p.name == name), None)
    return divides and stats is not None and stats.dtype == "float32" and stats.max_abs > LARGEST_SQUARED


def _squared_away(stuck: list[UpdateStats], scene: Scene) -> Finding:
    parameters = {p.name: p.gradient for p in scene.exhibit.traces[0].parameters if p.gradient is not None}
    worst = max(stuck, key=lambda update: parameters[update.name].max_abs)
    return Finding(
        symptom=Symptom.EXPLODING,
        cause=Cause.NUMERIC_FORMAT,
        where=tuple(dict.fromkeys(owner(update.name) for update in stuck)),
        severity=Severity.WARNING,
        message=f"The gradient of {worst.name} is as large as {parameters[worst.name].max_abs:.2g}, and its square, "
        f"by whose root {scene.exhibit.optimizers[0].kind} divides, is infinite in float32: the step is zero there, "
        "and nothing moves. What makes the gradient that large is to be mended.",
        evidence=(Evidence("largest entry of the gradient", parameters[worst.name].max_abs),),
        remedies=remedies_for(Symptom.EXPLODING, Cause.NUMERIC_FORMAT),
    )
