"""A NaN or Inf in an input, a parameter, an activation, the loss or a gradient: where was it born, and of what?

A number is born non-finite either where an op is evaluated (or differentiated) at a singularity, or where something
grew past the largest number of its format. The format at the birthplace and the op's kind tell them apart.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.data_scale import large_inputs, made_large_by
from gradtrace.diagnosis.layer import is_layer, place, rms_to_fan_in
from gradtrace.diagnosis.naming import told_op
from gradtrace.diagnosis.scene import View, is_finite
from gradtrace.diagnosis.sums import is_sum
from gradtrace.diagnosis.thresholds import GROWN, HALF_FORMATS, INPUT_RMS, LARGE_WEIGHT
from gradtrace.measure.names import Names
from gradtrace.measure.path import Paths
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import FINITE_CONSTANT, FINITE_INPUTS, remedies_for
from gradtrace.remedies.unsafe import remedy_of
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene
    from gradtrace.records.finding import Remedy
    from gradtrace.records.trace import Birth, Op, Trace

_SMOOTH = set(
    "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d matmul __matmul__ mm bmm addmm "
    "baddbmm einsum add add_ __add__ __iadd__ __radd__ sub mul mul_ __mul__ __imul__ __rmul__ sum mean relu cumsum "
    "Addmm Mm Bmm Baddbmm Linear Convolution Mul Add Sum Mean Relu lstm gru rnn_tanh rnn_relu "
    "square square_ mse_loss l1_loss smooth_l1_loss huber_loss MseLoss".split()
)
"""Ops without a singularity: what they make infinite was too large before."""


MASKED = " No parameter gets it here: an op on its way, such as ReLU's zero side, stops it."
"""Of a gradient that is not finite between two ops, and nowhere else."""


def judge(scene: Scene) -> list[Finding]:
    """One finding for the first trace that is not finite; the training run's own is judged by the rule of steps."""
    broken = next((trace for trace in scene.exhibit.traces if not is_finite(trace)), None)
    return [] if broken is None else [finding_of(broken)]


def finding_of(trace: Trace, step: int | None = None, cause: Cause | None = None) -> Finding:
    """The finding for a trace that is not finite."""
    birth = trace.nonfinite
    cause = cause or cause_of(birth, trace)
    masked = _is_masked(birth, trace)
    return Finding(
        symptom=Symptom.NONFINITE,
        cause=cause,
        where=_where(birth, trace),
        severity=Severity.WARNING if masked else Severity.CRITICAL,
        message=_message(birth, trace, _named(birth, trace)) + (MASKED if masked else ""),
        evidence=(
            Evidence("loss", trace.loss),
            Evidence("parameters with a non-finite gradient", _num_bad(trace), "parameters"),
        ),
        remedies=_remedies(birth, cause),
        source=birth.site.source if birth is not None else "",
        step=step,
    )


def cause_of(birth: Birth | None, trace: Trace) -> Cause:
    """What made it: the format, a singularity, a scale that ran away, or the data."""
    if birth is None:
        return Cause.UNSAFE_OP
    if birth.phase == "input":
        return Cause.INPUT_SCALE
    if birth.phase == "constant":
        return Cause.UNSAFE_OP
    if birth.phase == "parameter":
        # steps that ran away are known to whoever saw them; else Adam's eps of 1e-8 is zero in float16, and 0/0 is NaN
        halves = {p.name for p in trace.parameters if p.dtype in HALF_FORMATS}
        return Cause.NUMERIC_FORMAT if birth.op in halves else Cause.LEARNING_RATE
    half = any(
        stats.dtype in HALF_FORMATS and HALF_FORMATS[stats.dtype][1] < 1e5
        for op in trace.ops
        if op.site.source == birth.site.source and op.site.module == birth.site.module
        for stats in (op.received, *op.passed)
        if stats is not None
    )
    if half:
        return Cause.NUMERIC_FORMAT
    if large_data(birth, trace):
        return Cause.INPUT_SCALE
    averaged = base_name(birth.op).lower() == "mean" and math.isnan(birth.largest)  # of nothing: 0/0
    grown = not averaged and (math.isnan(birth.largest) or birth.largest >= GROWN)
    if base_name(birth.op) not in _SMOOTH or not grown:
        return Cause.UNSAFE_OP
    return Cause.RESIDUAL_GROWTH if _is_grown_by_sums(trace) else Cause.LARGE_WEIGHTS


def _is_grown_by_sums(trace: Trace) -> bool:
    """Whether weights of usual size, on data of usual size, overflow in a network of residual sums.

    A layer of such weights keeps a signal's scale; products of signals (gates, attention) and sums of them do not.
    """
    view = View(trace, Paths(trace), ())
    tables = [op for op in trace.ops if "Embedding" in op.name]  # what is looked up is data to what follows
    looked_up = [p.norm / math.sqrt(p.numel) for p in trace.parameters if any(p.name in op.weights for op in tables)]
    maps = [op for op in trace.ops if is_layer(op) and op not in tables]
    sizes = [size for op in maps for size in rms_to_fan_in(op, trace)]
    if not sizes or max(sizes) >= LARGE_WEIGHT or large_inputs(view) or max(looked_up, default=0.0) >= INPUT_RMS:
        return False
    return any(len(view.paths.arrivals[op.index]) > 1 and _is_skipped_to(op, view) for op in trace.ops)


def _is_skipped_to(op: Op, view: View) -> bool:
    """Whether a later sum adds what an op made to what became of it."""
    return any(is_sum(view.trace.ops[source]) for source, _ in view.paths.arrivals[op.index])


def large_data(birth: Birth, trace: Trace) -> float:
    """RMS of the inputs where an exponential overflows that would be small for unit inputs; else 0."""
    if birth.phase != "forward" or not base_name(birth.op).lower().startswith("exp"):
        return 0.0
    view = View(trace, Paths(trace), ())
    here = [op for op in trace.ops if op.site == birth.site and base_name(op.name).startswith("Exp")]
    return max((made_large_by(op, view) for op in here), default=0.0)


def _where(birth: Birth | None, trace: Trace) -> tuple[str, ...]:
    if birth is None:
        bad = [p.name for p in trace.parameters if p.gradient is not None and p.gradient.nonfinite_frac > 0.0]
        return tuple(bad) or ("",)
    if birth.phase == "parameter":
        return (birth.op, birth.site.module or "")
    here = birth.site.module if birth.site.module is not None else "loss"
    fed_by = feeder(birth, trace)
    return (here, fed_by) if fed_by and fed_by != here else (here,)


def feeder(birth: Birth, trace: Trace) -> str:
    """The module whose output came to a birthplace in the root's own code or in the loss; '' where none is known."""
    if birth.site.module or birth.fed_by or birth.phase != "backward":
        return birth.fed_by
    op = next((op for op in trace.ops if op.name == birth.op and op.site == birth.site), None)
    return place(op, Paths(trace)) if op is not None else ""


def _remedies(birth: Birth | None, cause: Cause) -> tuple[Remedy, ...]:
    """Of an unsafe op that is known: its own."""
    if birth is not None and birth.phase == "constant":
        return (FINITE_CONSTANT,)
    if birth is not None and birth.phase == "input":
        return (FINITE_INPUTS,)
    known = cause is Cause.UNSAFE_OP and birth is not None and birth.phase in ("forward", "backward")
    return (remedy_of(birth.op, birth.operand),) if known and birth else remedies_for(Symptom.NONFINITE, cause)


def _named(birth: Birth | None, trace: Trace) -> str:
    """``exp behind fc (Linear), net.py:12``, or ``log in model[1] (Log, net.py:12)``: op, module and line."""
    if birth is None:
        return ""
    name = base_name(birth.op).lower()
    same = [op for op in trace.ops if op.site == birth.site and name in (op.function, base_name(op.name).lower())]
    if same:
        told = told_op(same[0], trace, Paths(trace))
        return told if name in told else f"{name} in {told}"
    at = f" ({birth.site.source})" if birth.site.source else ""
    return f"{name} in {'the loss' if birth.site.module is None else Names(trace).told(birth.site.module)}{at}"


def _message(birth: Birth | None, trace: Trace, named: str) -> str:
    if birth is None:
        return "A gradient is not finite; the op where it was born could not be told."
    at = f" ({birth.site.source})" if birth.site.source else ""
    module = "the loss" if birth.site.module is None else (birth.site.module or "the model")
    detail = f": {birth.detail}" if birth.detail else ""
    fed_by = feeder(birth, trace)
    if fed_by and (told := Names(trace).told(fed_by)) not in named:
        detail += f"; what it works on comes from {told}"
    if size := large_data(birth, trace):
        detail += f". The input has a root mean square of {size:.3g}, where about 1 is expected"
    number = "NaN or Inf" if math.isfinite(trace.loss) else str(trace.loss).replace("nan", "NaN").replace("inf", "Inf")
    match birth.phase:
        case "input":
            return f"The batch itself holds NaN or Inf; it enters at {birth.op} in {module}{at}."
        case "constant":
            return (
                f"The loss is {number}: a constant holds NaN or Inf, and no number of the batch does; it enters at "
                f"{birth.op} in {module}{at}."
            )
        case "parameter":
            return f"Parameter {birth.op} holds NaN or Inf before the step."
        case "backward":
            return (
                f"The forward pass is finite, the backward pass is not: {named} is differentiated "
                f"where its derivative does not exist or overflows{detail}."
            )
        case _:
            return f"The loss is {number}: {named} made the first number that is not finite{detail}."


def _is_masked(birth: Birth | None, trace: Trace) -> bool:
    """Whether it was born in the backward pass and reaches no parameter."""
    return birth is not None and birth.phase == "backward" and math.isfinite(trace.loss) and _num_bad(trace) == 0


def _num_bad(trace: Trace) -> int:
    return sum(p.gradient is not None and p.gradient.nonfinite_frac > 0.0 for p in trace.parameters)
