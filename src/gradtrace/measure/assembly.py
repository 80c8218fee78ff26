"""From handles to the record: the one transfer to the host, and the frozen `Trace` made of it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.measure.attention import attention_stats
from gradtrace.measure.origin import find_birth
from gradtrace.measure.reduction import name_of, whole_norms
from gradtrace.measure.seen import activation_stats, forward_stats, objective_stats
from gradtrace.measure.statistics import Statistics
from gradtrace.records.parameter_name import module_in
from gradtrace.records.trace import (
    AttentionStats,
    Coverage,
    Op,
    ParameterStats,
    PlateauStats,
    TensorStats,
    Trace,
)
from gradtrace.records.vocabulary import Factor
from gradtrace.tape.kinds import OPAQUE, base_name
from gradtrace.tape.private import unseen

if TYPE_CHECKING:
    from torch import nn

    from gradtrace.measure.description import Description, NodeInfo
    from gradtrace.measure.session import Backward, Forward


def assemble(
    model: nn.Module,
    forward: Forward,
    backward: Backward,
    tape: Description,
    probe: str,
    notes: tuple[str, ...],
    environment: tuple[tuple[str, str], ...],
) -> Trace:
    """Bring the numbers to the host and build the trace."""
    gathered = forward.recorder.gathered
    named = {name: parameter for name, parameter in model.named_parameters() if name not in gathered.missing}
    own = [name for name in named if name not in gathered.norms]
    found = dict(zip(own, whole_norms([named[name] for name in own]), strict=True)) | gathered.norms
    norms = {name: forward.deferred.put(norm) for name, norm in found.items()}
    loss = forward.deferred.put(forward.loss.detach())
    arrays = forward.deferred.fetch()
    tap, hidden = backward.tap, backward.hidden
    numbers = Statistics(arrays, [*tap.received.values(), *tap.passed.values(), *hidden.values()])
    ops = _ops(backward, tape, numbers)
    reached, severed = forward.recorder.dataflow.reach(forward.loss)
    called = forward.recorder.called_modules()
    gradients = {op.parameter: op.received for op in ops if op.parameter is not None}
    gradients |= {name: numbers.of(handle) for name, handle in hidden.items()}
    made = {op.parameter: tape.made[op.index] for op in ops if op.index in tape.made}
    records = [
        ParameterStats(
            name=name,
            shape=tuple(parameter.shape),
            dtype=name_of(parameter.dtype),
            device=str(parameter.device),
            norm=float(arrays[norms[name]][0]),
            gradient=gradients.get(name),
            requires_grad=parameter.requires_grad,
            affects_loss=name in reached or gradients.get(name) is not None,
            module_called=module_in(name) in called,
            finite=bool(np.isfinite(arrays[norms[name]][0])),
            made_at=made.get(name, ""),
        )
        for name, parameter in named.items()
    ]
    records += _strangers(ops, tape)
    trace = Trace(
        ops=ops,
        parameters=tuple(records),
        loss=float(arrays[loss][0]) if probe == "loss" else math.nan,
        probe=probe,
        batch_size=forward.batch_size,
        coverage=_coverage(ops, tuple(records), tape, forward, backward, notes),
        severed=severed,
        environment=environment,
    )
    return replace(trace, nonfinite=find_birth(forward, trace, arrays))


def _ops(backward: Backward, tape: Description, numbers: Statistics) -> tuple[Op, ...]:
    graph, tap = backward.graph, backward.tap
    ports: list[list[TensorStats]] = [[] for _ in graph.nodes]
    for (index, _), handle in sorted(tap.received.items(), key=lambda item: item[0]):
        ports[index].append(numbers.of(handle))
    received = [_joint(parts) for parts in ports]
    shares = _shares(backward, numbers, received)
    ops = []
    for index, node in enumerate(graph.nodes):
        info = tape.infos[node]
        targets = graph.targets[index]
        slots = range(len(targets))
        handles = [tap.passed.get((index, slot)) for slot in slots]
        ops.append(
            Op(
                index=index,
                name=info.name,
                factor=info.factor,
                site=info.site,
                received=received[index],
                passed=tuple(numbers.of(handle) if handle is not None else None for handle in handles),
                targets=targets,
                shares=tuple(shares.get((index, slot)) for slot in slots),
                parameter=info.parameter or tape.strangers.get(index),
                weights=info.weights,
                sequence=info.sequence,
                activation=activation_stats(info.seen, numbers.arrays) if info.seen else None,
                forward=forward_stats(info.seen, numbers.arrays) if info.seen else None,
                function=info.function,
                opaque=base_name(info.name) in OPAQUE,
                trapped_frac=float(numbers.arrays[tap.trapped[index]][0]) if index in tap.trapped else 0.0,
                objective=objective_stats(info.seen, numbers.arrays, info.factor, info.function) if info.seen else None,
                attention=_attention(info, numbers),
                divisor=_divisor(info, numbers),
                plateau=_plateau(numbers.arrays[tap.plateaus[index]]) if index in tap.plateaus else None,
            )
        )
    return tuple(ops)


def _divisor(info: NodeInfo, numbers: Statistics) -> tuple[float, float] | None:
    if info.seen is None or info.seen.divisor is None:
        return None
    low, high = numbers.arrays[info.seen.divisor]
    return float(low), float(high)


def _attention(info: NodeInfo, numbers: Statistics) -> AttentionStats | None:
    """A softmax that is no attention (a router, a hidden unit) has no heads."""
    if info.factor is not Factor.ATTENTION or info.seen is None or info.seen.heads is None:
        return None
    return attention_stats(numbers.arrays[info.seen.heads])


def _plateau(numbers: np.ndarray) -> PlateauStats | None:
    """None where no entry is flat and led off."""
    off, of_flat, lost, left = (float(number) for number in numbers)
    return PlateauStats(off, of_flat, lost, left) if off > 0.0 else None


def _joint(parts: list[TensorStats]) -> TensorStats | None:
    """The gradients of all outputs of an op as one tensor."""
    if len(parts) <= 1:
        return parts[0] if parts else None
    numel = sum(part.numel for part in parts)
    counts: dict[int, int] = {}
    for part in parts:
        for exponent, count in part.log2_counts:
            counts[exponent] = counts.get(exponent, 0) + count
    return TensorStats(
        shape=(numel,),
        dtype=parts[0].dtype,
        device=parts[0].device,
        norm=math.sqrt(sum(part.norm**2 for part in parts)),
        max_abs=max(part.max_abs for part in parts),
        zero_frac=sum(part.zero_frac * part.numel for part in parts) / max(numel, 1),
        nonfinite_frac=sum(part.nonfinite_frac * part.numel for part in parts) / max(numel, 1),
        log2_counts=tuple(sorted(counts.items())),
    )


def _shares(
    backward: Backward, numbers: Statistics, received: list[TensorStats | None]
) -> dict[tuple[int, int], float | None]:
    """<g_i, g>/|g|^2 for every passed gradient, g being all that its target received."""
    tap = backward.tap
    shares: dict[tuple[int, int], float | None] = {}
    for target, edges in backward.graph.arrivals.items():
        whole = received[target[0]]
        here = tap.received.get(target)
        arrived = [edge for edge in edges if edge in tap.passed]
        if whole is None or here is None or not arrived:
            continue
        total, port = whole.norm**2, numbers.of(here).norm ** 2
        squares = [numbers.of(tap.passed[edge]).norm ** 2 for edge in arrived]
        for position, edge in enumerate(arrived):
            if not 0.0 < total < math.inf:
                shares[edge] = None
            elif len(arrived) == 1:
                shares[edge] = port / total
            elif len(arrived) == 2:  # <a, a + b> = (|a + b|^2 + |a|^2 - |b|^2) / 2
                shares[edge] = (port + squares[position] - squares[1 - position]) / 2 / total
            elif edge in tap.dots:
                shares[edge] = float(numbers.arrays[tap.dots[edge]][0]) / total
            else:
                shares[edge] = port / total * squares[position] / (sum(squares) or 1.0)
    return shares


def _strangers(ops: tuple[Op, ...], tape: Description) -> list[ParameterStats]:
    return [
        ParameterStats(
            name=name,
            shape=gradient.shape,
            dtype=gradient.dtype,
            device=gradient.device,
            norm=math.nan,
            gradient=gradient,
            in_model=False,
            made_at=tape.made.get(op.index, ""),
            affects_loss=True,
        )
        for op in ops
        if (name := tape.strangers.get(op.index)) is not None and (gradient := op.received) is not None
    ]


def _coverage(
    ops: tuple[Op, ...],
    parameters: tuple[ParameterStats, ...],
    tape: Description,
    forward: Forward,
    backward: Backward,
    notes: tuple[str, ...],
) -> Coverage:
    faults, passed_by = [*forward.recorder.faults, *backward.tap.faults], [*forward.recorder.passed_by]
    if passed_by:
        more = f" and {len(passed_by) - 1} more" if len(passed_by) > 1 else ""
        notes += (f"frozen, in eval mode: {passed_by[0]}{more} not looked into, so that torch takes its fast path",)
    if missing := forward.recorder.gathered.missing:
        notes += (f"of {len(missing)} sharded parameters no rank had the whole in this pass: {min(missing)}",)
    return Coverage(
        no_gradient=tuple(p.name for p in parameters if p.requires_grad and p.gradient is None),
        opaque=tuple(dict.fromkeys(f"{OPAQUE[base_name(op.name)]} at {op.site}" for op in ops if op.opaque)),
        unknown=tuple(dict.fromkeys(base_name(op.name) for op in ops if op.factor is Factor.OTHER)),
        unreadable=tape.unreadable,
        notes=notes + unseen() + tuple(dict.fromkeys(f"could not measure: {fault}" for fault in faults)),
    )
