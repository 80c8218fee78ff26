"""One trace made of parts: under the names of the whole, and with what only the whole shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gradtrace.records.trace import Coverage, Op, ParameterStats, TensorStats, Trace
from gradtrace.records.vocabulary import Factor
from gradtrace.tape.factors import assign
from gradtrace.tape.graph import Graph
from gradtrace.tape.kinds import OPAQUE, base_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gradtrace.monitor.traces.outline import Origins
    from gradtrace.monitor.traces.replayed import Inside
    from gradtrace.records.time import Chain
    from gradtrace.tape.graph import Edge


@dataclass(frozen=True, slots=True)
class Placed:
    """The inside of one call, and where in the whole it belongs."""

    inside: Inside | None
    """None: no gradient reached it."""
    path: str
    """Of the module that was called, in the whole."""
    names: Mapping[str, str]
    """Of its parameters there -> in the whole."""
    start: int
    """The number of the first op that the call recorded."""
    origins: Origins
    sources: tuple[str, str] = ("", "")
    """The line from which the call was made once more, and the line that made it: one stands for the other."""


def chains_of_calls(calls: Sequence[Placed]) -> tuple[Chain, ...]:
    """The recurrences of all calls, under the names of the whole, each module's calls numbered through."""
    found: list[Chain] = []
    before = Counter[str]()
    for placed in calls:
        own = placed.inside.chains if placed.inside is not None else ()
        named = [replace(chain, module=_within(placed.path, chain.module)) for chain in own]
        found += [replace(chain, call=chain.call + before[chain.module]) for chain in named]
        for chain in named:
            before[chain.module] = max(before[chain.module], 1 + max(c.call for c in found if c.module == chain.module))
    return tuple(found)


def _within(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def renamed(op: Op, placed: Placed, calls: Counter[str]) -> Op:
    """Module paths and names of parameters as the whole has them."""
    site = op.site
    if site.module is not None:
        site = replace(site, module=_within(placed.path, site.module), call=site.call + calls[site.module])
    if site.source and site.source == placed.sources[0]:
        site = replace(site, source=placed.sources[1])
    name = op.parameter
    return replace(
        op,
        site=site,
        parameter=placed.names.get(name, _within(placed.path, name)) if name is not None else None,
        weights=tuple(placed.names.get(weight, _within(placed.path, weight)) for weight in op.weights),
    )


def whole_of(front: Trace, calls: Sequence[Placed], joined: Sequence[Op]) -> Trace:
    """The trace that consists of the ops `joined`: `front`'s, and those from inside of `calls`."""
    ops = _with_loss(joined)
    known = [(placed, placed.inside.trace) for placed in calls if placed.inside is not None]
    insides = [trace for _, trace in known]
    gradients = {op.parameter: op.received for op in ops if op.parameter is not None}
    own = {placed.names[p.name]: p for placed, trace in known for p in trace.parameters if p.name in placed.names}
    parameters = tuple(_told(p, own.get(p.name), gradients.get(p.name)) for p in front.parameters)
    told = {p.name for p in parameters}
    strangers = [
        replace(p, name=_within(placed.path, p.name))
        for placed, trace in known
        for p in trace.parameters
        if not p.in_model and _within(placed.path, p.name) not in told
    ]
    coverage = [front.coverage, *(trace.coverage for trace in insides)]
    parameters += tuple(strangers)
    return replace(
        front,
        ops=ops,
        parameters=parameters,
        coverage=Coverage(
            no_gradient=tuple(p.name for p in parameters if p.requires_grad and p.gradient is None),
            opaque=tuple(dict.fromkeys(f"{OPAQUE[base_name(op.name)]} at {op.site}" for op in ops if op.opaque)),
            unknown=tuple(dict.fromkeys(base_name(op.name) for op in ops if op.factor is Factor.OTHER)),
            unreadable=tuple(dict.fromkeys(site for one in coverage for site in one.unreadable)),
            notes=tuple(dict.fromkeys(note for one in coverage for note in one.notes)),
        ),
        nonfinite=next((t.nonfinite for t in [*insides, front] if t.nonfinite is not None), None),
        severed=tuple(dict.fromkeys(place for t in [front, *insides] for place in t.severed)),
    )


def _told(parameter: ParameterStats, own: ParameterStats | None, gradient: TensorStats | None) -> ParameterStats:
    if own is None:
        return replace(parameter, gradient=gradient)
    return replace(
        parameter,
        gradient=gradient,
        affects_loss=parameter.affects_loss or own.affects_loss,
        module_called=parameter.module_called or own.module_called,
    )


def _with_loss(ops: Sequence[Op]) -> tuple[Op, ...]:
    """Where the loss begins is seen from the whole alone: a log_softmax in the model is part of a loss behind it."""
    targets = tuple(op.targets for op in ops)
    arrivals: dict[Edge, list[Edge]] = {}
    for op in ops:
        for slot, target in enumerate(op.targets):
            if target is not None:
                arrivals.setdefault(target, []).append((op.index, slot))
    found = assign(
        Graph((), targets, {target: tuple(edges) for target, edges in arrivals.items()}),
        [op.name for op in ops],
        [op.site for op in ops],
        [op.function for op in ops],
        [op.weights for op in ops],
        [op.received is not None and op.received.numel == 1 for op in ops],
    )
    return tuple(
        replace(op, factor=factor) if Factor.LOSS in (factor, op.factor) else op
        for op, factor in zip(ops, found, strict=True)
    )
