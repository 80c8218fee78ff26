"""Does a record that was read hold together? Types are the codec's; drawing rests on lengths and places, too."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gradtrace.records.codec import CodecError
from gradtrace.records.finding import Diagnosis
from gradtrace.records.prediction import Prediction
from gradtrace.records.repair import Repair
from gradtrace.records.time import ThroughTime
from gradtrace.records.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gradtrace.records.lyapunov import LyapunovSpectrum
    from gradtrace.records.time import Chain, Reach
    from gradtrace.records.trace import ActivationStats, Op, TensorStats

MOST_EXPONENT = 1100
"""[powers of two] A float64 has none beyond."""


def check(record: object) -> None:
    """Raise `CodecError` where parts of `record` contradict each other."""
    for record_type, look in CHECKS.items():
        if isinstance(record, record_type):
            look(record)


def _need(is_so: bool, what: str) -> None:
    if not is_so:
        raise CodecError(what)


def _diagnosis(diagnosis: Diagnosis) -> None:
    for trace in diagnosis.traces:
        _trace(trace)


def _trace(trace: Trace) -> None:
    for place, op in enumerate(trace.ops):
        _need(op.index == place, f"op number {place} calls itself {op.index}")
        _op(op, len(trace.ops))
    for parameter in trace.parameters:
        _tensors((parameter.gradient,))
        _shape(parameter.shape)
    if trace.through_time is not None:
        _through_time(trace.through_time)
    _need(trace.ranks is None or len(trace.ranks.spreads) == len(trace.ops), "not every op has a spread over ranks")


def _op(op: Op, num_ops: int) -> None:
    where = f"op number {op.index}"
    _need(len(op.passed) == len(op.targets) == len(op.shares), f"{where} has not as many targets as gradients")
    for target in op.targets:
        _need(target is None or (op.index < target[0] < num_ops and target[1] >= 0), f"{where} points to no later op")
    _tensors((op.received, *op.passed))
    if op.activation is not None:
        _activation(op.activation, where)


def _tensors(held: Iterable[TensorStats | None]) -> None:
    for stats in held:
        if stats is None:
            continue
        _shape(stats.shape)
        bins = [exponent for exponent, _ in stats.log2_counts]
        _need(bins == sorted(bins) and all(abs(b) <= MOST_EXPONENT for b in bins), "a histogram is out of order")
        _need(all(count > 0 for _, count in stats.log2_counts), "a histogram counts nothing")
        _need(len(stats.example_norms) in (0, 5), "a gradient has not five norms per example")


def _shape(shape: tuple[int, ...]) -> None:
    _need(all(size >= 0 for size in shape) and math.prod(shape) < 2**63, f"nothing has the shape {shape}")


def _activation(stats: ActivationStats, where: str) -> None:
    _need(len(stats.preactivation_quantiles) in (0, 7), f"{where} has not seven quantiles")
    _need(stats.num_units >= 0 and stats.num_samples >= 0, f"{where} has fewer units than none")


def _through_time(record: ThroughTime) -> None:
    for chain in record.chains:
        _chain(chain)
    for reach in record.losses:
        _reach(reach)
    for spectrum in record.spectra:
        _spectrum(spectrum)


def _chain(chain: Chain) -> None:
    steps, where = len(chain.linear), f"chain {chain.name!r}"
    _need(len(chain.hidden) == steps + 1 and len(chain.recurrent) == steps, f"{where} differs in its numbers of steps")
    _need(len(chain.cell) in (0, steps + 1), f"{where} has not one cell state a step")
    _need(len(chain.carried) in (0, steps) and len(chain.read) in (0, steps), f"{where} has not one carry a step")
    _need(
        not chain.cell or (bool(chain.carried) == bool(chain.read) == bool(steps)), f"{where} has a cell, but no carry"
    )
    _need(all(0 <= cut <= steps for cut in chain.cuts), f"{where} is cut outside of its steps")
    if chain.reach is not None:
        _reach(chain.reach)


def _reach(reach: Reach) -> None:
    num = len(reach.targets)
    _need(len(reach.rows) == num and len(reach.starts) in (0, num), "a heat map has not one row a target")
    for target, row in zip(reach.targets, reach.rows, strict=True):
        _need(target >= 0 and len(row) == target + 1, f"a heat map's row of {target} has {len(row)} numbers")
    _need(
        all(0 <= start <= target for start, target in zip(reach.starts, reach.targets, strict=False)), "a cut is late"
    )


def _spectrum(spectrum: LyapunovSpectrum) -> None:
    same = len(spectrum.exponents) == len(spectrum.errors) > 0
    _need(same, f"the exponents of {spectrum.name!r} have not one error each")


def _repair(repair: Repair) -> None:
    _diagnosis(repair.diagnosis)
    for trial in repair.trials:
        _need(all(outcome.curve for outcome in trial.outcomes), f"trial {trial.title!r} was trained, but has no losses")


def _prediction(prediction: Prediction) -> None:
    for layer in prediction.layers:
        _need(min(layer.fan_in, layer.fan_out, layer.num_steps) >= 0, f"layer {layer.module!r} has a negative size")


CHECKS: dict[type, Callable[[Any], None]] = {
    Diagnosis: _diagnosis,
    Trace: _trace,
    ThroughTime: _through_time,
    Prediction: _prediction,
    Repair: _repair,
}
