"""The gradient by depth: from the layer nearest to the loss down the critical path to a first layer, link by link.

A *layer* is an op with weights. A *first layer* has no layer below it. Between the gradients that two layers receive
lies a sum of links, each of one factor, which adds up to the difference exactly.

The derivative of a network is made of its weights once more (a gradient penalty, a differential equation in the loss,
an inner step of meta-learning): such a use is no layer of the network, though gradient comes through it. Where the path
stays on the residual stream to the very end (a differential equation unrolled, blocks without a head), the last sum
that a branch of layers joins is what the first layer is compared with, and growth is all that is looked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.diagnosis.felt import felt_besides
from gradtrace.diagnosis.first_layers import that_count
from gradtrace.diagnosis.layer import is_layer, num_units
from gradtrace.diagnosis.sums import is_sum
from gradtrace.diagnosis.thresholds import HEALTHY_DECADES, LAYERS_PER_BLOCK
from gradtrace.measure.path import Paths
from gradtrace.records.vocabulary import Factor
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from gradtrace.records.time import ThroughTime
    from gradtrace.records.trace import Op, Trace

MAX_PATHS = 6
"""First layers that are followed, the deepest first."""


@dataclass(frozen=True, slots=True)
class Link:
    """One op (or the merge in front of one) on the path, and the decades it adds."""

    op: Op
    factor: Factor
    decades: float


@dataclass(frozen=True, slots=True)
class Profile:
    """One critical path: layers from the loss to a first layer, and the links between the outermost two."""

    layers: tuple[Op, ...]
    """Layer ops, the one nearest to the loss first, the first layer last."""
    links: tuple[Link, ...]
    """From what the reference layer received to what the first layer received."""
    reference: Op
    """The late layer (or the last residual sum) that the first layer is compared with."""
    felt: float = 0.0
    """Decades (positive) by which the first layer's weights feel more than it received, by data and number of uses."""

    @property
    def first(self) -> Op:
        """The first layer."""
        return self.layers[-1]

    @property
    def num_spans(self) -> int:
        """Layers between the reference and the first."""
        late = self.layers.index(self.reference) if self.reference in self.layers else -1
        return max(1, len(self.layers) - 1 - late)

    @property
    def decades_norm(self) -> float:
        """log10 of early over late, Frobenius norms."""
        return log10_ratio(_norm(self.first), _norm(self.reference))

    @property
    def decades_rms(self) -> float:
        """log10 of early over late, per unit (positions and examples summed, features averaged)."""
        return self.decades_norm + 0.5 * math.log10(num_units(self.reference) / num_units(self.first))

    @property
    def lost(self) -> float:
        """Decades lost by both measures (negative), or 0.

        None on a residual stream: what the scale of a branch takes from its own layers has nothing to do with depth.
        """
        if not self.reference.weights:
            return 0.0
        return min(0.0, max(self.decades_norm, self.decades_rms) - self.averaged + self.felt)

    @property
    def averaged(self) -> float:
        """Decades (negative) by which means over N positions shrink the norm, 1/sqrt(N), and which no weight feels.

        Weights below are shared by the N positions and sum over them: N terms of g / N are g again.
        """
        return sum(mean_loss(link) for link in self.links)

    @property
    def gained(self) -> float:
        """Decades gained by both measures (positive) beyond those that are `free`, or 0."""
        return max(0.0, min(self.decades_norm, self.decades_rms) - self.free)

    @property
    def free(self) -> float:
        """Decades gained because the first layer's own weights are small and a norm divides by their scale.

        Behind a norm that scale is free: the loss does not depend on it, its gradient goes with its inverse, and a
        step that is too large for it makes it larger (Arora et al., Auto rate-tuning by batch normalization, 2019).
        """
        gained = 0.0
        for link in reversed(self.links):
            if link.op.factor is Factor.NORM and link.op.forward is not None and link.factor is Factor.NORM:
                gained += max(
                    0.0, min(link.decades, log10_ratio(link.op.forward.output_rms, link.op.forward.input_rms))
                )
            elif link.op.weights:
                break
        return gained

    def total(self, factor: Factor) -> float:
        """Decades of all links of one factor."""
        return sum(link.decades for link in self.links if link.factor is factor)

    def path_ops(self) -> list[Op]:
        """The ops between the reference and the first layer, both included."""
        return [*{link.op.index: link.op for link in self.links}.values(), self.first]


_MEANS = {"Mean", "AvgPool1D", "AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D", "AdaptiveAvgPool3D"}


_LEAVES_OUT = {"Mul", "Where", "MaskedFill"}
"""Ops that pass nothing to an operand that is multiplied by zero or not taken."""


def mean_loss(link: Link) -> float:
    """What a mean over N positions alone takes, -log10(N) / 2; 0 for any other link."""
    if base_name(link.op.name) not in _MEANS or link.factor is Factor.MERGE or not link.decades < 0.0:
        return 0.0
    received, passed = link.op.received, link.op.passed[0]
    if received is None or passed is None or not received.numel:
        return 0.0
    return max(link.decades, -0.5 * math.log10(max(1.0, passed.numel / received.numel)))


def left_out(profile: Profile) -> bool:
    """Whether the way ends where a branch is multiplied by zero, or not taken: nothing of it enters these batches."""
    stop = next((link.op for link in profile.links if link.decades == -math.inf), None)
    return stop is not None and not stop.weights and base_name(stop.name) in _LEAVES_OUT


def log10_ratio(a: float, b: float) -> float:
    """log10(a / b), with -inf and inf for zeros and NaN for 0/0 or a NaN."""
    if math.isnan(a) or math.isnan(b) or (a == 0.0 and b == 0.0):
        return math.nan
    if a == 0.0:
        return -math.inf
    return math.inf if b == 0.0 else math.log10(a) - math.log10(b)


def _norm(op: Op) -> float:
    return op.received.norm if op.received is not None else math.nan


def profiles(trace: Trace, paths: Paths, loops: ThroughTime | None = None) -> tuple[Profile, ...]:
    """One profile per first layer that is at least two layers deep, the deepest first; `loops` as they are known.

    Where all of the loss is made of derivatives (forces of an energy, a score), their chain is the network.
    """
    own = {op.index for op in trace.ops if is_layer(op) and op.function not in _DERIVATIVES}
    every = {op.index for op in trace.ops if is_layer(op)}
    return _profiles(trace, paths, loops, own) or (_profiles(trace, paths, loops, every) if every != own else ())


_DERIVATIVES = {"grad", "backward"}
"""Functions of torch that record a backward pass."""


def _profiles(trace: Trace, paths: Paths, loops: ThroughTime | None, layers: set[int]) -> tuple[Profile, ...]:
    above = paths.depths
    below = [False] * len(trace.ops)
    for op in reversed(trace.ops):
        below[op.index] = any(below[t[0]] or t[0] in layers for t in op.targets if t)
    firsts = [op for op in trace.ops if op.index in layers and not below[op.index] and above[op.index] > 0]
    firsts = sorted(that_count(firsts, trace, paths, loops), key=lambda op: -above[op.index])
    ends = [end for op in firsts[:MAX_PATHS] for end in _follow(trace, paths, op, layers)]
    found = [profile for profile in ends if profile.reference.weights]
    found += [branch for profile in found for branch in _branches(trace, paths, profile, layers)]
    found += [profile for profile in ends if not profile.reference.weights]
    used = [profile for profile in found if not left_out(profile)]
    return tuple(used or found)


def _branches(trace: Trace, paths: Paths, main: Profile, known: set[int]) -> list[Profile]:
    """Ways deeper than a block that join the critical path below: a skip may feed the first layer past them."""
    steps = paths.path(main.first.index)
    on_path = {step.op for step in steps}
    found = []
    for target in (*(step.op for step in steps), main.first.index):
        for source, _ in paths.arrivals[target]:
            if source in on_path:
                continue
            way = [source]
            while way[-1] not in on_path and (chosen := paths.chosen[way[-1]]) is not None:
                way.append(chosen[0])
            layers = [trace.ops[i] for i in reversed(way) if i not in on_path and i in known]
            if len({op.weights for op in layers}) > LAYERS_PER_BLOCK:  # (turns of a loop are no depth)
                found.append(_between(trace, paths, layers))
    return sorted(found, key=lambda profile: profile.lost)[:MAX_PATHS]


def _between(trace: Trace, paths: Paths, layers: list[Op]) -> Profile:
    """The profile from the first to the last of `layers`, which lie on one way."""
    steps = paths.path(layers[-1].index)
    path = [trace.ops[step.op] for step in steps] + [layers[-1]]
    links = []
    for position in range(path.index(layers[0]), len(steps)):
        step, op = steps[position], path[position]
        links.append(Link(op, op.factor, step.gain_log10))
        if step.merge_log10 != 0.0:
            links.append(Link(path[position + 1], Factor.MERGE, step.merge_log10))
    return _profile(layers, links, layers[0], paths)


def _profile(layers: list[Op], links: list[Link], reference: Op, paths: Paths) -> Profile:
    return Profile(tuple(layers), tuple(links), reference, felt_besides(layers[-1], reference, paths))


def _follow(trace: Trace, paths: Paths, first: Op, known: set[int]) -> list[Profile]:
    """From the late layer on the way to `first`, and from the last sum of a stream that goes past layers above that."""
    steps = paths.path(first.index)
    path = [trace.ops[step.op] for step in steps] + [first]
    layers = [op for op in path if op.index in known]
    stream = _last_sum(trace, paths, path, layers[0], known) if paths.depths[layers[0].index] else None
    references = [*([_reference(layers)] if len(layers) > 1 else []), *([stream] if stream is not None else [])]
    found = []
    for reference in references:
        links = []
        for position in range(path.index(reference), len(steps)):
            step, op = steps[position], path[position]
            links.append(Link(op, op.factor, step.gain_log10))
            if step.merge_log10 != 0.0:
                links.append(Link(path[position + 1], Factor.MERGE, step.merge_log10))
        found.append(_profile(layers, links, reference, paths))
    return found


def _last_sum(trace: Trace, paths: Paths, path: list[Op], late: Op, known: set[int]) -> Op | None:
    """The sum on `path` nearest to the loss that a branch joins whose layers `late`, the path's own last, is below."""
    on_path = {op.index for op in path}
    found: int | None = None
    for op in trace.ops[: late.index]:
        if op.index in on_path or op.index not in known:
            continue
        above: int | None = op.index
        while above is not None and above not in on_path:
            chosen = paths.chosen[above]
            above = chosen[0] if chosen is not None else None
        is_nearer = above is not None and (found is None or above < found)
        if is_nearer and is_sum(trace.ops[above]) and _leads_to(op, late, trace):  # type: ignore[index]
            found = above
    return trace.ops[found] if found is not None else None


def _leads_to(op: Op, other: Op, trace: Trace) -> bool:
    """Whether `other` is below `op`."""
    seen, stack = {op.index}, [op.index]
    while stack:
        new = {t[0] for t in trace.ops[stack.pop()].targets if t is not None and t[0] <= other.index} - seen
        seen |= new
        stack.extend(new)
    return other.index in seen


def _reference(layers: list[Op]) -> Op:
    """The late layer: of the last two the one nearer in scale to the first layer.

    A head may be of another scale than all other layers (no norm behind it, tied to an embedding). Where the two are
    themselves further apart than is healthy, that is a loss like any other, and the head stays the reference.
    """
    head, second, first = layers[0], layers[1], layers[-1]
    gap = log10_ratio(_norm(second), _norm(head))
    if len(layers) < 4 or not abs(gap) < HEALTHY_DECADES:
        return head
    nearer = abs(log10_ratio(_norm(first), _norm(second))) < abs(log10_ratio(_norm(first), _norm(head)))
    return second if nearer else head
