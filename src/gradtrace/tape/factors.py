"""Which factor is an op, given its surroundings? The table decides first; then where it stands.

- The product of two activations next to a softmax is attention, and so is that softmax.
- Elementwise arithmetic inside a module named a norm is a norm; a dropout's product with its mask moves no scale.
- What stands between the network's output and the scalar is the loss: a connected region that begins at the root and
  ends at the first op that a module of the model owns, or that has weights.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gradtrace.records.vocabulary import Factor
from gradtrace.tape.kinds import LEAF, base_name, factor_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.trace import Site
    from gradtrace.tape.graph import Graph

LINEAR = set(
    "Addmm Mm Bmm Baddbmm Addbmm Linear Trilinear Embedding EmbeddingBag EmbeddingDenseBackward SparseAddmm Addmv Mv "
    "Dot "
    "Convolution ConvolutionOverrideable ConvolutionBackward MkldnnConvolution CudnnConvolution MiopenConvolution "
    "CudnnConvolutionTranspose MiopenConvolutionTranspose MiopenDepthwiseConvolution MpsConvolution "
    "MpsConvolutionTranspose NnpackSpatialConvolution SlowConv2D SlowConv3D SlowConvDilated2D SlowConvDilated3D "
    "SlowConvTranspose2D SlowConvTranspose3D ConvDepthwise2D ConvDepthwise3D ConvTbc MkldnnRnnLayer CudnnRnn MiopenRnn "
    "LstmMps ThnnFusedLstmCell ThnnFusedGruCell MkldnnLinear GroupedMm".split()
)
"""Ops that sum over features: with a parameter as an operand, a layer."""

_VECTOR = {"Mv", "Dot"}
_SCALAR = {"Dot", "Vdot"}
_VIEWS = set(
    "View UnsafeView ReshapeAlias T Transpose Permute Expand Squeeze Unsqueeze Select Slice Clone Alias ToCopy "
    "Unbind Split SplitWithSizes UnsafeSplit Mul Div Add MaskedFill Where NativeDropout".split()
)
_PARAMETRIC_NODES = 16
"""A parametrised weight (weight norm, spectral norm, masks) takes at most this many ops from its parameters."""

_NORM_TYPE = re.compile(r"norm(\d+d)?$", re.IGNORECASE)
_LOSS_TYPE = re.compile(r"(loss|criterion)$", re.IGNORECASE)


def operand_parameters(graph: Graph, names: Sequence[str], parameters: dict[int, str]) -> list[tuple[str, ...]]:
    """Per op, the names of the parameters among its operands; `parameters` maps leaf ops to names."""
    kinds = [base_name(name) for name in names]
    found: list[tuple[str, ...]] = []
    sizing = set[int]()
    for index, kind in enumerate(kinds):  # a weight's own ops come behind the layer that it is of
        weights: dict[str, None] = {}
        if kind in LINEAR and index not in sizing:
            for target in graph.targets[index]:
                own = _parametric(graph, kinds, parameters, target)
                weights |= dict.fromkeys(own)
                if own and target and kind not in _VECTOR:
                    sizing |= _sizing(graph, kinds, target[0])
        found.append(tuple(weights))
    return found


def _sizing(graph: Graph, kinds: Sequence[str], weight: int) -> set[int]:
    """Of the ops that a weight is made by, those that make the one number it is divided by: u W v of spectral norm.

    They are no layers: data is no scalar.
    """
    found, stack, seen = set[int](), [(weight, False)], set[tuple[int, bool]]()
    while stack:
        index, is_below = stack.pop()
        is_below = is_below or kinds[index] in _SCALAR
        if (index, is_below) not in seen:
            seen.add((index, is_below))
            found |= {index} if is_below else set()
            stack.extend((pair[0], is_below) for pair in graph.targets[index] if pair)
    return found


def _parametric(
    graph: Graph, kinds: Sequence[str], parameters: dict[int, str], target: tuple[int, int] | None
) -> list[str]:
    """Parameters below `target`, or none when anything but a parametrisation lies there."""
    names, stack, seen = [], [target[0]] if target else [], set[int]()
    while stack:
        index = stack.pop()
        if index in seen:
            continue
        seen.add(index)
        kind = kinds[index]
        if len(seen) > _PARAMETRIC_NODES or (kind in LINEAR and kind not in _VECTOR):
            return []
        if index in parameters:
            names.append(parameters[index])
        elif kind == base_name(LEAF):  # an input that a gradient was asked for
            return []
        stack.extend(pair[0] for pair in graph.targets[index] if pair)
    return names[::-1]


def assign(
    graph: Graph,
    names: Sequence[str],
    sites: Sequence[Site],
    functions: Sequence[str],
    weights: Sequence[tuple[str, ...]],
    scalar: Sequence[bool],
) -> list[Factor]:
    """The factor of each op; `scalar[i]`: op i receives a single number."""
    kinds = [base_name(name) for name in names]
    factors = [factor_of(name) for name in names]
    for index, site in enumerate(sites):
        if names[index] == LEAF:
            factors[index] = Factor.WEIGHT
        elif functions[index].rstrip("_") in DROPOUTS or "dropout" in site.module_type.lower():
            factors[index] = Factor.RESHAPE
        elif _NORM_TYPE.search(site.module_type) and kinds[index] not in LINEAR:
            factors[index] = Factor.NORM
    _mark_attention(graph, kinds, factors, weights, functions)
    _mark_loss(graph, kinds, factors, sites, weights, scalar)
    return factors


DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout"}
"""Functions that multiply by a random mask."""


def _mark_attention(
    graph: Graph,
    kinds: Sequence[str],
    factors: list[Factor],
    weights: Sequence[tuple[str, ...]],
    functions: Sequence[str],
) -> None:
    products = {i for i, kind in enumerate(kinds) if kind in ("Bmm", "Baddbmm", "Mm") and not weights[i]}
    for product in products:  # weights @ values: its operand comes from a softmax, whose operand comes from q @ k
        for target in graph.targets[product]:
            softmax = _follow(graph, kinds, target, {"Softmax", "SafeSoftmax", "Sigmoid", "Relu"})
            scores = _follow(graph, kinds, graph.targets[softmax][0], products) if softmax is not None else None
            if softmax is None:
                continue
            # F.linear behind a ReLU is the layer of a network whose weights another one writes
            is_layer = scores is None or functions[product] == "linear"
            if is_layer and kinds[softmax] not in ("Softmax", "SafeSoftmax"):
                continue
            factors[product] = factors[softmax] = Factor.ATTENTION
            if scores is not None:
                factors[scores] = Factor.ATTENTION


def _follow(
    graph: Graph, kinds: Sequence[str], target: tuple[int, int] | None, ends: set[str] | set[int]
) -> int | None:
    """Down through views and scalings until an op whose kind (or index) is in `ends`."""
    for _ in range(12):
        if target is None:
            return None
        index = target[0]
        if index in ends or kinds[index] in ends:
            return index
        if kinds[index] not in _VIEWS:
            return None
        target = next((pair for pair in graph.targets[index] if pair), None)
    return None


def _mark_loss(
    graph: Graph,
    kinds: Sequence[str],
    factors: list[Factor],
    sites: Sequence[Site],
    weights: Sequence[tuple[str, ...]],
    scalar: Sequence[bool],
) -> None:
    sources: list[list[int]] = [[] for _ in kinds]
    for (target, _), edges in graph.arrivals.items():
        sources[target].extend(source for source, _ in edges)
    region: set[int] = set()
    functional = not any(site.module is None and weights[i] for i, site in enumerate(sites))
    for index, kind in enumerate(kinds):
        if kind == base_name(LEAF) or weights[index] or any(source not in region for source in sources[index]):
            continue
        site = sites[index]
        outside = site.module is None and functional
        named = factors[index] is Factor.LOSS or _LOSS_TYPE.search(site.module_type) is not None
        tail = kind == "LogSoftmax" and any(factors[source] is Factor.LOSS for source in sources[index])
        if outside or named or tail or scalar[index]:
            region.add(index)
    for index in region:
        factors[index] = Factor.LOSS
