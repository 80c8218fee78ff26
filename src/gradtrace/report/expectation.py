"""What would the gradient do if the weights knew nothing of it? The theory's line beside the measured waterfall.

    |L'(l-1)| = |L'(l)| rms(a') |W|_F / sqrt(fan_out),

which is E[|W^T g|^2] = |W|_F^2 |g|^2 / fan_out for a g independent of W, for linear maps and (borders aside)
convolutions; rms(a') is measured. Other factors are taken as measured. (S. Schoenholz et al., Deep information
propagation, 2017, section 3.)

Measured a' and |W|_F make it an oracle at any step of a training. A `Prediction` has a' from mean-field theory and
holds for fresh weights alone; where it leaves the measurement one could not tell trained weights from a wrong a'.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.records.vocabulary import Factor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gradtrace.measure.ledger import LedgerRow
    from gradtrace.measure.path import Paths, Step
    from gradtrace.records.trace import Op, ParameterStats, Trace

MATRIX_OPS = ("Addmm", "Mm", "Convolution", "MkldnnLinear", "CudnnConvolution")
"""Beginnings of the names of ops whose weight has its outputs along the first axis of the parameter."""


def expected_decades(trace: Trace, paths: Paths, book: Sequence[LedgerRow]) -> list[float]:
    """Per row, the decades from the loss to behind it that theory expects; from the first row without one, NaN."""
    parameters = {parameter.name: parameter for parameter in trace.parameters}
    steps = {step.op: step for step in paths.path(book[-1].ops[-1])}
    found, level = [], 0.0
    for row in book:
        for index in row.ops:
            if (step := steps.get(index)) is not None:
                level += _expected(trace.ops[index], step, parameters) + step.merge_log10
        found.append(level)
    return found


def _expected(op: Op, step: Step, parameters: Mapping[str, ParameterStats]) -> float:
    if op.activation is not None and op.factor is Factor.ACTIVATION and op.activation.derivative_rms > 0:
        return math.log10(op.activation.derivative_rms)
    if op.factor is Factor.WEIGHT and op.name.startswith(MATRIX_OPS) and "Transpose" not in op.site.module_type:
        matrices = [p for name in op.weights if (p := parameters.get(name)) is not None and len(p.shape) > 1]
        if len(matrices) == 1 and matrices[0].norm > 0 and math.isfinite(matrices[0].norm):
            return math.log10(matrices[0].norm) - 0.5 * math.log10(matrices[0].shape[0])
    return step.gain_log10
