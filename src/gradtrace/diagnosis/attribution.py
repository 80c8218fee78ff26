"""Which cause do the links of a profile name? The budget of the path decides, factor by factor.

Losses are blamed in the order of how specific they are: the same map applied again and again; one place that loses most
of it; flat non-linearities; derivatives bounded below one; norms behind the residual sum; and last the scale of the
weights, which becomes `depth_without_skip` where each layer alone is within a hair of one.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import is_shared_out, owner, parameters_behind, places
from gradtrace.diagnosis.profile import Link, Profile, mean_loss
from gradtrace.diagnosis.sums import after_merge, branches, is_one_map, is_sum, skip_share
from gradtrace.diagnosis.thresholds import (
    CLEAR_DECADES,
    DOMINANT_FRAC,
    HEALTHY_DECADES,
    LAYERS_PER_BLOCK,
    NEAR_ONE_DECADES,
    RECURRENCE_CALLS,
    SATURATED_MAJORITY,
    SKIP_SHARE,
)
from gradtrace.records.vocabulary import Cause, Factor
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from gradtrace.measure.path import Paths
    from gradtrace.records.trace import Op


@dataclass(frozen=True, slots=True)
class Blame:
    """A cause, where it sits (the first to blame first), and the op whose source line to show."""

    cause: Cause
    where: tuple[str, ...]
    op: Op
    decades_here: float | None = None
    """Where one place is to blame, what it alone loses or gains."""
    num_calls: int = 0
    """For a recurrence, how often the map is applied along the path."""
    injected: bool = False
    """For a recurrence, whether each application is given the same input anew (a fixed-point iteration)."""
    num_sums: int = 0
    """For residual growth, how many sums the path goes through."""
    one_branch: bool = False
    """For residual growth, whether all of these sums add what one and the same layer made."""
    at: str = ""
    """Where `decades_here` are, if that is not the first of `where`."""


def blame_loss(profile: Profile, paths: Paths) -> Blame:
    """Why gradient is lost along `profile`."""
    recurrent = _recurrent(profile, paths, Cause.RECURRENT_CONTRACTION)
    if recurrent is not None:
        return recurrent
    total = sum(link.decades - mean_loss(link) for link in profile.links)
    worst = min(profile.links, key=lambda link: link.decades - mean_loss(link))
    if worst.decades <= min(-HEALTHY_DECADES, DOMINANT_FRAC * total) or math.isinf(worst.decades):
        return _blame_link(worst, profile, paths)
    activations = [link for link in profile.links if link.factor is Factor.ACTIVATION]
    flat = [link for link in activations if is_flat(link.op)]
    bounded = [link for link in activations if link.op.activation and is_bounded(link.op)]
    for links, cause in ((flat, Cause.SATURATED_PREACTIVATION), (bounded, Cause.ACTIVATION_DERIVATIVE)):
        if links and _sum(links) <= DOMINANT_FRAC * total:
            return _by_size(paths, cause, links, sign=-1)
    norms = [link for link in profile.links if link.factor is Factor.NORM and after_merge(link.op, paths)]
    if len(norms) >= 2 and _sum(norms) <= DOMINANT_FRAC * total:
        return _by_size(paths, Cause.POST_NORM, norms, sign=-1)
    attention = [link for link in profile.links if link.factor is Factor.ATTENTION]
    if attention and _sum(attention) <= DOMINANT_FRAC * total and any(is_flat(link.op) for link in attention):
        return _by_size(paths, Cause.ATTENTION_SATURATION, attention, sign=-1)
    return _blame_scale(profile, paths, total)


def blame_growth(profile: Profile, paths: Paths) -> Blame:
    """Why gradient grows along `profile`."""
    recurrent = _recurrent(profile, paths, Cause.RECURRENT_EXPANSION)
    if recurrent is not None:
        return recurrent
    total = sum(link.decades for link in profile.links)
    merges = [link.op for link in profile.links if link.factor is Factor.MERGE]
    skips = [op for op in merges if skip_share(op, paths) is not None]
    norms = [link for link in profile.links if link.factor is Factor.NORM]
    batch = [link for link in norms if "BatchNorm" in link.op.name]
    divisions = [link for link in profile.links if link.decades > 0.0 and is_division_near_zero(link.op, paths)]
    if divisions and _sum(divisions) >= DOMINANT_FRAC * total:
        return _by_size(paths, Cause.UNSAFE_OP, divisions, sign=1)
    copies = [link for link in profile.links if link.factor is Factor.RESHAPE and link.decades > 0.0]
    if copies and _sum(copies) >= DOMINANT_FRAC * total:
        return _by_size(paths, Cause.REDUCTION_SCALE, copies, sign=1)
    biggest = max(profile.links, key=lambda link: link.decades)
    if biggest.decades >= max(HEALTHY_DECADES, DOMINANT_FRAC * total) and biggest.factor is not Factor.NORM:
        return Blame(Cause.LARGE_WEIGHTS, places(_makers(biggest, profile, paths), paths), biggest.op, biggest.decades)
    shares = [share for op in skips if (share := skip_share(op, paths)) is not None]
    if len(skips) >= max(2, profile.num_spans / LAYERS_PER_BLOCK) and statistics.median(shares) >= SKIP_SHARE:
        added = branches(skips, paths)
        return Blame(Cause.RESIDUAL_GROWTH, places(added, paths), skips[0],
                     num_sums=len(skips), one_branch=is_one_map(added))  # fmt: skip
    if len(batch) * 2 >= profile.num_spans and not skips:
        return _by_size(paths, Cause.BATCHNORM_EXPLOSION, batch, sign=1)
    return _blame_scale(profile, paths, total)


def is_division_near_zero(op: Op, paths: Paths) -> bool:
    """Whether zero lies between the divisors, or within `CLEAR_DECADES` of the largest.

    d(a/b) = da / b - a db / b^2: of divisors with a density at zero 1/b has no mean, let alone 1/b^2, and the smallest
    of a batch decides on its gradient.
    """
    above = [paths.ops[source] for source, _ in paths.arrivals[op.index]]
    if op.divisor is None and base_name(op.name) == "Reciprocal":  # 1 / b is a reciprocal times one
        op = next((other for other in above if other.site == op.site and other.divisor is not None), op)
    if op.divisor is None:
        return False
    low, high = op.divisor
    return low <= 0.0 <= high or min(abs(low), abs(high)) <= 10**-CLEAR_DECADES * max(abs(low), abs(high))


def _makers(link: Link, profile: Profile, paths: Paths) -> list[Op]:
    """Who makes what is large at `link`: where two computed things are multiplied, the one that the way goes on to too.

    Weights that another network writes are such an operand.
    """
    computed = [t for t in link.op.targets if t is not None and paths.ops[t[0]].parameter is None]
    way = next((layer for layer in profile.layers if layer.index > link.op.index), None)
    if link.factor is Factor.MERGE or base_name(link.op.name) not in _PRODUCTS or len(computed) < 2 or way is None:
        return [link.op]
    return [way, link.op]


_PRODUCTS = {"Mm", "Bmm", "Baddbmm", "Mul"}


def _recurrent(profile: Profile, paths: Paths, cause: Cause) -> Blame | None:
    """The same map again and again: the same weights repeatedly, one after the other, or a fused recurrence.

    A module without weights of its own that stands between other layers each time (one activation for all) is none, nor
    is a parameter that holds the weights of all layers, of which each takes its own.
    """
    calls: dict[tuple[str, ...], list[Op]] = {}
    for op in profile.layers:
        calls.setdefault(op.weights, []).append(op)
    again = [ops for ops in calls.values() if len(ops) >= RECURRENCE_CALLS and not is_shared_out(ops, paths)]
    repeated = sorted((op for ops in again for op in ops), key=lambda op: op.index)
    if repeated and 2 * len(repeated) >= len(profile.layers):
        count = max(map(len, again))
        return Blame(cause, _common(places(repeated, paths)), repeated[0], None, count,
                     is_fixed_point(profile, paths, count))  # fmt: skip
    total = sum(link.decades for link in profile.links)
    fused = [link for link in profile.links if link.op.function in RECURRENT_FUNCTIONS]
    decades: Counter[str | None] = Counter()
    for link in fused:
        decades[link.op.site.module] += link.decades  # type: ignore[assignment]
    for module, lost in decades.items():
        share = lost / total if math.isfinite(total) and total else float(math.isinf(lost))
        ops = [link.op for link in fused if link.op.site.module == module]
        if len(ops) >= RECURRENCE_CALLS and share >= DOMINANT_FRAC and module is not None:
            return Blame(cause, (module,), ops[0], None, len(ops))
    return _computed_once(profile, paths, cause, total)


def _computed_once(profile: Profile, paths: Paths, cause: Cause, total: float) -> Blame | None:
    """The same weight again and again that is computed from parameters before the loop, as exp(dt A) of a state space.

    The ops that apply it have no parameter of their own.
    """
    applied: dict[int, list[Link]] = {}
    for link in profile.links:
        if link.factor is Factor.WEIGHT and not link.op.weights and base_name(link.op.name) in _PRODUCTS:
            for target in link.op.targets:
                if target is not None and len(paths.arrivals[target[0]]) >= RECURRENCE_CALLS:
                    applied.setdefault(target[0], []).append(link)
    for index, links in applied.items():
        parameters = parameters_behind(paths.ops[index], paths.ops) if len(links) >= RECURRENCE_CALLS else ()
        if parameters and total and math.isfinite(total) and _sum(links) / total >= DOMINANT_FRAC:
            where = tuple(dict.fromkeys(owner(name) for name in parameters))
            return Blame(cause, where, links[0].op, None, len(links))
    return None


def _common(modules: tuple[str, ...]) -> tuple[str, ...]:
    """The module that holds them all, where there is one below the root: a block is applied, not each of its layers."""
    parts = [module.split(".") for module in modules]
    shared = [names[0] for names in itertools.takewhile(lambda x: len({*x}) == 1, zip(*parts, strict=False))]
    return (".".join(shared),) if shared else modules


def is_fixed_point(profile: Profile, paths: Paths, count: int) -> bool:
    """Whether most applications add the very same tensor: z = f(z) + x converges, and x gets its gradient late.

    A bias is the same each time in any recurrence: x is computed, or it is data.
    """
    on_path = {op.index for op in profile.path_ops()}
    added = Counter(
        target
        for link in profile.links
        if is_sum(link.op)
        for target in link.op.targets
        if target is not None and target[0] not in on_path and paths.ops[target[0]].parameter is None
    )
    return bool(added) and 2 * added.most_common(1)[0][1] >= count


RECURRENT_FUNCTIONS = {"lstm", "gru", "rnn_tanh", "rnn_relu"}
"""Torch functions that run a whole recurrence."""


def _blame_link(link: Link, profile: Profile, paths: Paths) -> Blame:
    """One place that loses most of the gradient."""
    op = link.op
    if link.factor is Factor.ACTIVATION:
        flat = is_flat(op) or (op.activation is not None and op.activation.zero_frac > SATURATED_MAJORITY)
        cause = Cause.SATURATED_PREACTIVATION if flat else Cause.ACTIVATION_DERIVATIVE
    elif link.factor is Factor.ATTENTION:
        cause = Cause.ATTENTION_SATURATION
    elif link.factor is Factor.NORM or _divides_by_computed(op, paths):
        cause = Cause.LARGE_WEIGHTS  # a norm divides by its input's scale: what stands before it made it large
    else:
        cause = Cause.SMALL_WEIGHTS
    return Blame(cause, places([op], paths), op, link.decades)


def _divides_by_computed(op: Op, paths: Paths) -> bool:
    """Whether it divides one computed value by another, as a norm written out does."""
    computed = [t for t in op.targets if t is not None and paths.ops[t[0]].parameter is None]
    return base_name(op.name) == "Div" and len(computed) == 2


def _blame_scale(profile: Profile, paths: Paths, total: float) -> Blame:
    """No factor stands out but the weights' scale: too small, too large, or near one in too many layers."""
    sign = -1 if total < 0 else 1
    layers = [link for link in profile.links if link.factor is Factor.WEIGHT]
    if abs(total) / profile.num_spans < NEAR_ONE_DECADES:
        return Blame(Cause.DEPTH_WITHOUT_SKIP, places([link.op for link in layers], paths), layers[0].op)
    return _by_size(
        paths, Cause.SMALL_WEIGHTS if sign < 0 else Cause.LARGE_WEIGHTS, layers or list(profile.links), sign=sign
    )


def _by_size(paths: Paths, cause: Cause, links: list[Link], *, sign: int) -> Blame:
    """Largest first, to a tenth of a decade; equals stay in the order of the path."""
    ordered = sorted(links, key=lambda link: -round(sign * link.decades, 1))
    return Blame(cause, places([link.op for link in ordered], paths), ordered[0].op)


def _sum(links: list[Link]) -> float:
    return sum(link.decades for link in links)


def is_flat(op: Op) -> bool:
    """Whether most of an op's non-linearity sits where its derivative is under 5 % of the maximum."""
    if op.activation is None:
        return False
    if op.activation.function in HALF_FLAT:
        return op.activation.saturated_frac > (1.0 + SATURATED_MAJORITY) / 2
    return op.activation.saturated_frac > SATURATED_MAJORITY


HALF_FLAT = set(
    "relu relu6 threshold gelu gelu_tanh silu mish elu selu celu softplus hardswish leaky_relu prelu rrelu logsigmoid "
    "exp hardshrink softshrink clamp".split()
)
"""Flat on one side by design: half of a centred pre-activation lies there, and that is healthy."""


def is_bounded(op: Op) -> bool:
    """Whether the derivative stays below one wherever it is evaluated (or the op is a softmax used as a unit)."""
    return op.activation is not None and (op.activation.derivative_max < 1.0 or op.activation.function in ROWS)


ROWS = {"softmax", "softmin", "log_softmax", "attention"}
