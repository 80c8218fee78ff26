"""Which factor explains how many decades of the deficit? Taken away one by one, and in all combinations.

On one backward pass of a copy, a factor is taken away by what its ops pass on: a non-linearity passes the gradient as
it came (a' = 1), a weight, norm or attention op at the norm at which it came (gain 1). The decades between the late and
the first layer are measured for every subset; Shapley values over them are the shares (records/repair.py).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from math import factorial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradtrace.diagnosis.profile import Profile, profiles
from gradtrace.measure.description import describe
from gradtrace.measure.path import Paths
from gradtrace.measure.session import eager, run_forward
from gradtrace.measure.untouched import paused_collection, untouched
from gradtrace.records.repair import Share, Shares
from gradtrace.records.vocabulary import Factor
from gradtrace.tape.graph import release, walk

if TYPE_CHECKING:
    from torch.autograd.graph import Node

    from gradtrace.records.trace import Trace
    from gradtrace.repair.situation import Situation

FACTORS = (Factor.ACTIVATION, Factor.WEIGHT, Factor.NORM, Factor.ATTENTION, Factor.MERGE)
"""What can be taken away; what only moves elements has no gain of its own to blame."""
MOST_FACTORS = 4
"""Factors over which subsets are formed: 16 backward passes."""
LEAST_DECADES = 0.5
"""Deficits below this are not worth an account: a factor of three."""


def shapley(players: Sequence[Any], value: Callable[[frozenset[Any]], float]) -> dict[Any, float]:
    """Shapley values of ``value({}) - value(S)``: what each player takes away, over all orders.

    >>> shapley("ab", lambda S: 10.0 - 4.0 * ("a" in S) - 6.0 * ("b" in S))
    {'a': 4.0, 'b': 6.0}
    """
    n = len(players)
    values = {frozenset(S): value(frozenset(S)) for k in range(n + 1) for S in combinations(players, k)}
    return {i: _value_of(i, players, values) for i in players}


def _value_of(player: Any, players: Sequence[Any], values: Mapping[frozenset[Any], float]) -> float:
    others = [other for other in players if other != player]
    n = len(players)
    terms = [
        factorial(k) * factorial(n - k - 1) / factorial(n) * (values[frozenset(S)] - values[frozenset(S) | {player}])
        for k in range(n)
        for S in combinations(others, k)
    ]
    return math.fsum(terms)


def shares_of(situation: Situation) -> Shares | None:
    """The account of the deepest path's deficit; None where there is none, or it is not finite."""
    profile = situation.profile
    if profile is None or not _players(profile):
        return None
    twin = situation.twin()
    with untouched(twin.model), eager(), paused_collection(), contextlib.ExitStack() as last:
        forward = run_forward(twin.model, twin.loss_fn, situation.batches[0])
        nodes = forward.graph.nodes
        last.callback(release, list(nodes))
        infos = describe(forward, twin.model).infos
        found = _account(forward.loss, nodes, {n: infos[n].factor for n in nodes if n in infos}, profile)
        del forward
    return found


def shares_on_tape(loss: Tensor, trace: Trace) -> Shares | None:
    """The same on a tape that is still there, of whose pass `trace` tells; the gradients of no tensor are changed."""
    profile = next(iter(profiles(trace, Paths(trace))), None)
    if profile is None or loss.grad_fn is None or not _players(profile):
        return None
    nodes = walk([loss.grad_fn]).nodes
    return _account(loss, nodes, {nodes[op.index]: op.factor for op in trace.ops}, profile)


def _players(profile: Profile) -> tuple[Factor, ...]:
    """The factors that have most to do with a deficit that is worth an account."""
    if not math.isfinite(profile.decades_norm) or abs(profile.decades_norm) < LEAST_DECADES:
        return ()
    totals = {factor: profile.total(factor) for factor in FACTORS}
    named = sorted((f for f in FACTORS if f is not Factor.MERGE and totals[f]), key=lambda f: -abs(totals[f]))
    return tuple(named[:MOST_FACTORS])


def _account(loss: Tensor, nodes: Sequence[Node], factors: Mapping[Node, Factor], profile: Profile) -> Shares | None:
    """The share of each, the deficit, and what remains without all of them."""
    players = _players(profile)
    ends = nodes[profile.first.index], nodes[profile.reference.index]
    known: dict[frozenset[Factor], float] = {}

    def value(taken: frozenset[Factor]) -> float:
        if taken not in known:
            known[taken] = _decades(loss, ends, {n: f for n, f in factors.items() if f in taken})
        return known[taken]

    values = shapley(players, value)
    deficit, remaining = value(frozenset()), value(frozenset(players))
    if not all(math.isfinite(v) for v in (*values.values(), deficit, remaining)):
        return None
    ordered = sorted(values, key=lambda factor: -abs(values[factor]))
    found = tuple(Share(factor, values[factor]) for factor in ordered)
    return Shares(deficit, found, remaining, str(profile.first.site.module), str(profile.reference.site.module))


def _decades(loss: Tensor, ends: tuple[Node, Node], taken: Mapping[Node, Factor]) -> float:
    """log10 of what the first layer receives over what the late one does, with these ops' factors taken away."""
    seen: dict[int, Tensor] = {}
    with _hooked(ends, taken, seen):
        leaves = [p for p in _leaves(loss) if p.requires_grad]
        torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
    norms = [float(seen[i]) if i in seen else 0.0 for i in range(2)]
    if not all(norm > 0.0 and math.isfinite(norm) for norm in norms):
        return math.nan
    return math.log10(norms[0]) - math.log10(norms[1])


def _leaves(loss: Tensor) -> list[Tensor]:
    assert loss.grad_fn is not None
    return list(walk([loss.grad_fn]).leaves().values())


@contextlib.contextmanager
def _hooked(ends: tuple[Node, Node], taken: Mapping[Node, Factor], seen: dict[int, Tensor]) -> Iterator[None]:
    handles = []
    try:
        for number, node in enumerate(ends):
            handles.append(node.register_prehook(_noting(seen, number)))
        for node, factor in taken.items():
            handles.append(node.register_hook(_passing if factor is Factor.ACTIVATION else _scaling))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _noting(seen: dict[int, Tensor], number: int) -> Callable[[Any], None]:
    def note(received: tuple[Tensor | None, ...]) -> None:
        squares = [g.detach().double().square().sum() for g in received if g is not None]
        if squares:
            seen[number] = torch.stack(squares).sum().sqrt()

    return note


def _passing(passed: tuple[Tensor | None, ...], received: tuple[Tensor | None, ...]) -> Any:
    """A' = 1: the gradient as it came, where the shapes are the same."""
    came = next((g for g in received if g is not None), None)
    if came is None:
        return None
    return tuple(came if g is not None and g.shape == came.shape else g for g in passed)


def _scaling(passed: tuple[Tensor | None, ...], received: tuple[Tensor | None, ...]) -> Any:
    """Gain 1: each gradient in its direction, at the norm at which it came."""
    squares = [g.detach().double().square().sum() for g in received if g is not None]
    if not squares:
        return None
    size = torch.stack(squares).sum().sqrt()
    return tuple(_resized(g, size) for g in passed)


def _resized(gradient: Tensor | None, size: Tensor) -> Tensor | None:
    if gradient is None or not gradient.is_floating_point() or gradient.is_sparse:
        return gradient
    norm = gradient.detach().double().square().sum().sqrt()
    return torch.where(norm > 0.0, gradient.double() * (size / norm), gradient.double()).to(gradient.dtype)
