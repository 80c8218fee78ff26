"""A trace whose inside was measured apart: what lies between the loss and a model's outputs, then the model's own.

The first is the training's, where a compiled model is one op; the second is that of the same call uncompiled
(`replayed`). Where the gradient enters the model the one goes over into the other. Gains are each one's own ratios, and
along any path they add up to the whole, since what is passed on and what is received are joined by the gain of a merge.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gradtrace.monitor.traces.outline import Output, Unfit
from gradtrace.records.trace import Coverage, Op, ParameterStats, TensorStats, Trace
from gradtrace.records.vocabulary import Factor
from gradtrace.tape.factors import assign
from gradtrace.tape.graph import Graph
from gradtrace.tape.kinds import LEAF, OPAQUE, base_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gradtrace.monitor.traces.outline import Entries, Origins
    from gradtrace.monitor.traces.replayed import Inside
    from gradtrace.tape.graph import Edge

_FRONT = -1

Key = tuple[int, int]
"""(number of the call, or `_FRONT`; place in its trace)."""


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


class Splice:
    """Joins `front`, in which the ops `entries` stand for calls, with the calls' own traces.

    Args:
        front: the training's own trace, without the insides of calls.
        entries: (op in front, which of its outputs) -> the output of a call that it stands for.
        calls: in the order in which they were made.
    """

    def __init__(self, front: Trace, entries: Entries, calls: Sequence[Placed]) -> None:
        self._front, self._entries, self._calls = front, entries, calls
        self._stand_ins = {index for index, _ in entries}
        self._leaves = {op.parameter: op.index for op in front.ops if op.parameter is not None}
        self._ops: dict[Key, Op] = {}
        self._targets: dict[Key, list[tuple[Key, int] | None]] = {}
        self._totals: dict[tuple[Key, int], float] = {}
        """[norm] Of what a source took its target's whole gradient to be, by source and slot."""
        self.alone: set[str] = set()
        """Parameters that one call alone brings their gradient, once joined."""

    def joined(self) -> Trace:
        """The whole."""
        self._take_front()
        for number, placed in enumerate(self._calls):
            if placed.inside is not None:
                self._take_call(number, placed, placed.inside)
        self._take_leaves()
        order = self._order()
        places = {key: index for index, key in enumerate(order)}
        ranks = self._ranks(order)
        ops = [self._placed(key, places, ranks[key]) for key in order]
        ops = _with_loss(ops)
        return self._trace(tuple(ops))

    # ------------------------------------------------------------------------------------------------------ the parts

    def _take_front(self) -> None:
        for op in self._front.ops:
            if op.index in self._stand_ins:
                continue
            key = (_FRONT, op.index)
            self._ops[key] = op
            self._targets[key] = [self._from_front(target) for target in op.targets]
            for slot, target in enumerate(op.targets):
                if target is not None:
                    self._totals[key, slot] = _norm(self._front.ops[target[0]].received)

    def _from_front(self, target: Edge | None) -> tuple[Key, int] | None:
        if target is None:
            return None
        entry = self._entries.get(target)
        return self._entrance(entry) if entry is not None else ((_FRONT, target[0]), target[1])

    def _entrance(self, output: Output) -> tuple[Key, int]:
        inside = self._calls[output.call].inside
        if inside is None or output.tensor not in inside.outputs:
            raise Unfit("uncompiled, the gradient takes another way")
        index, port = inside.outputs[output.tensor]
        return (output.call, index), port

    def _take_call(self, number: int, placed: Placed, inside: Inside) -> None:
        elsewhere = self._leaves_elsewhere(placed, inside)
        calls = self._calls_before(number, placed.path)
        ops = inside.trace.ops
        for op in ops:
            if op.index in elsewhere:
                continue
            key = (number, op.index)
            self._ops[key] = _renamed(op, placed, calls)
            self._targets[key] = [
                None if target is None else elsewhere.get(target[0], ((number, target[0]), target[1]))
                for target in op.targets
            ]
            for slot, target in enumerate(op.targets):
                if target is not None:
                    self._totals[key, slot] = _norm(ops[target[0]].received)

    def _leaves_elsewhere(self, placed: Placed, inside: Inside) -> dict[int, tuple[Key, int]]:
        """Leaves of a call that are the whole's: weights, and inputs that something else has made."""
        found: dict[int, tuple[Key, int]] = {}
        for op in inside.trace.ops:
            name = placed.names.get(op.parameter or "", "")
            origin = placed.origins.get(inside.inputs.get(op.index, -1))
            if name in self._leaves:
                found[op.index] = (_FRONT, self._leaves[name]), 0
            elif isinstance(origin, Output):
                found[op.index] = self._entrance(origin)
            elif origin is not None:
                found[op.index] = (_FRONT, origin[0]), origin[1]
        return found

    def _calls_before(self, number: int, path: str) -> Counter[str]:
        """How often each module was called in earlier calls of the same one."""
        found: Counter[str] = Counter()
        for earlier in self._calls[:number]:
            if earlier.path == path and earlier.inside is not None:
                here: Counter[str] = Counter()
                for op in earlier.inside.trace.ops:
                    if op.site.module is not None:
                        here[op.site.module] = max(here[op.site.module], op.site.call + 1)
                found += here
        return found

    def _take_leaves(self) -> None:
        """Where one call alone brings a parameter its gradient, that is the uncompiled code's."""
        sources: dict[Key, set[int]] = {}
        for (number, _), targets in self._targets.items():
            for target in targets:
                if target is not None:
                    sources.setdefault(target[0], set()).add(number)
        for name, index in self._leaves.items():
            key = (_FRONT, index)
            numbers = sources.get(key, set())
            if len(numbers) == 1 and _FRONT not in numbers:
                own = next((op for op in self._leaves_of(min(numbers)) if self._name(min(numbers), op) == name), None)
                if own is not None:
                    self._ops[key] = replace(self._ops[key], received=own.received)
                    self.alone.add(name)

    def _leaves_of(self, number: int) -> Iterator[Op]:
        inside = self._calls[number].inside
        return (op for op in (inside.trace.ops if inside is not None else ()) if op.parameter is not None)

    def _name(self, number: int, op: Op) -> str:
        return self._calls[number].names.get(op.parameter or "", "")

    # ------------------------------------------------------------------------------------------------------ the whole

    def _order(self) -> list[Key]:
        """Each op after all that it receives gradient from, and only what is reached or was in front before."""
        waiting = Counter(target[0] for targets in self._targets.values() for target in targets if target is not None)
        ready = [key for key in self._ops if not waiting[key]]
        ready.reverse()
        order = []
        while ready:
            key = ready.pop()
            order.append(key)
            for target in self._targets[key]:
                if target is not None:
                    waiting[target[0]] -= 1
                    if not waiting[target[0]]:
                        ready.append(target[0])
        return order

    def _ranks(self, order: Sequence[Key]) -> dict[Key, int]:
        """Places in the order of the forward pass: the ops of a call stand where the call did; leaves have none."""

        def place(key: Key) -> tuple[int, int]:
            sequence = self._ops[key].sequence
            return (sequence, 0) if key[0] == _FRONT else (self._calls[key[0]].start, sequence)

        inner = [key for key in order if self._ops[key].name != LEAF]
        ranks = {key: rank for rank, key in enumerate(sorted(inner, key=place))}
        return {key: ranks.get(key, self._ops[key].sequence) for key in order}

    def _placed(self, key: Key, places: Mapping[Key, int], rank: int) -> Op:
        op, targets = self._ops[key], self._targets[key]
        shares = list(op.shares)
        for slot, target in enumerate(targets):
            share = shares[slot]
            if share is not None and target is not None:
                told, now = self._totals[key, slot], _norm(self._ops[target[0]].received)
                shares[slot] = share * (told / now) ** 2 if now > 0.0 else None
        return replace(
            op,
            index=places[key],
            targets=tuple((places[target[0]], target[1]) if target is not None else None for target in targets),
            shares=tuple(shares),
            sequence=rank,
        )

    def _trace(self, ops: tuple[Op, ...]) -> Trace:
        front = self._front
        known = [(placed, placed.inside.trace) for placed in self._calls if placed.inside is not None]
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


def _norm(stats: TensorStats | None) -> float:
    return stats.norm if stats is not None else 0.0


def _within(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _renamed(op: Op, placed: Placed, calls: Counter[str]) -> Op:
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


def _told(parameter: ParameterStats, own: ParameterStats | None, gradient: TensorStats | None) -> ParameterStats:
    if own is None:
        return replace(parameter, gradient=gradient)
    return replace(
        parameter,
        gradient=gradient,
        affects_loss=parameter.affects_loss or own.affects_loss,
        module_called=parameter.module_called or own.module_called,
    )


def _with_loss(ops: Sequence[Op]) -> list[Op]:
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
    return [
        replace(op, factor=factor) if Factor.LOSS in (factor, op.factor) else op
        for op, factor in zip(ops, found, strict=True)
    ]
