"""What do weights feel beside what one use of them received, in decades?

    dL/dW = sum over the uses u of  g_u x_u^T

Of weights that are applied k times, as the field of a differential equation in k steps of size 1/k, each use gets a
k-th of the gradient, and together they get all of it. And data of scale s make a first layer's gradient s times as
large: a norm behind it that divides by s takes away no more than that.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.data_scale import scale_of
from gradtrace.diagnosis.layer import leaf_of

if TYPE_CHECKING:
    from gradtrace.measure.path import Paths
    from gradtrace.records.trace import Op


def felt_besides(first: Op, reference: Op, paths: Paths) -> float:
    """Decades (or 0) by which the first layer's weights get more than what it received says, over the late one's."""
    together = _together(first, paths) - _together(reference, paths)
    data = _data(first, paths) - _data(reference, paths)
    return max(0.0, together) + max(0.0, data)


def _together(op: Op, paths: Paths) -> float:
    """log10 of the gradient of all uses of a layer's largest weight over that of the use which gets most.

    So it is what they add up to where they fare alike, and nothing where the late ones leave nothing for the others.
    """
    leaves = [leaf for leaf in paths.ops if leaf.parameter in op.weights and leaf.received is not None]
    leaf = max(leaves, key=lambda leaf: leaf.received.numel if leaf.received is not None else 0, default=None)
    if leaf is None or leaf.received is None:
        return 0.0
    parts = [
        stats.norm
        for use in paths.ops
        if leaf.parameter in use.weights
        for stats, target in zip(use.passed, use.targets, strict=True)
        if stats is not None and target is not None and leaf_of(paths.ops[target[0]], paths.ops) is leaf
    ]
    most = max(parts, default=0.0)
    whole = min(leaf.received.norm, math.fsum(parts))  # a penalty may add to what arrives
    return max(0.0, math.log10(whole / most)) if 0.0 < most < math.inf and 0.0 < whole < math.inf else 0.0


def _data(op: Op, paths: Paths) -> float:
    """log10 of the scale of what comes into a layer, where it is above one; a table is asked for rows."""
    scale = scale_of(op, paths) if "Embedding" not in op.name else None
    return math.log10(scale.input_rms) if scale is not None and 1.0 < scale.input_rms < math.inf else 0.0
