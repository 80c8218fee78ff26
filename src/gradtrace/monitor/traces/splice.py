"""A trace whose inside was measured apart: what lies between the loss and a model's outputs, then the model's own.

The first is the training's, where a compiled model is one op; the second is that of the same call uncompiled
(`replayed`). Where the gradient enters the model the one goes over into the other. Gains are each one's own ratios, and
along any path they add up to the whole, since what is passed on and what is received are joined by the gain of a merge.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from gradtrace.monitor.traces.outline import Output, Unfit
from gradtrace.monitor.traces.whole import renamed, whole_of
from gradtrace.tape.kinds import LEAF

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gradtrace.monitor.traces.outline import Entries
    from gradtrace.monitor.traces.replayed import Inside
    from gradtrace.monitor.traces.whole import Placed
    from gradtrace.records.trace import Op, TensorStats, Trace
    from gradtrace.tape.graph import Edge

_FRONT = -1

Key = tuple[int, int]
"""(number of the call, or `_FRONT`; place in its trace)."""


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
        return whole_of(self._front, self._calls, ops)

    # ------------------------------------------------------------------------------------------------------ the parts

    def _take_front(self) -> None:
        for op in self._front.ops:
            if op.index in self._stand_ins:
                continue
            key = (_FRONT, op.index)
            self._ops[key] = op
            self._targets[key] = [self._from_front(target) for target in op.targets]
            for passed, before, now in zip(op.passed, op.targets, self._targets[key], strict=True):
                if passed is not None and before is not None and now is None:
                    raise Unfit("a gradient at an output is too large to be held")
            for slot, target in enumerate(op.targets):
                if target is not None:
                    self._totals[key, slot] = _norm(self._front.ops[target[0]].received)

    def _from_front(self, target: Edge | None) -> tuple[Key, int] | None:
        if target is None:
            return None
        entry = self._entries.get(target)
        return self._entrance(entry) if entry is not None else ((_FRONT, target[0]), target[1])

    def _entrance(self, output: Output) -> tuple[Key, int] | None:
        """None: no gradient goes that way."""
        inside = self._calls[output.call].inside
        if inside is None or output.tensor not in inside.outputs:
            return None
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
            self._ops[key] = renamed(op, placed, calls)
            self._targets[key] = [
                None if target is None else elsewhere.get(target[0], ((number, target[0]), target[1]))
                for target in op.targets
            ]
            for slot, target in enumerate(op.targets):
                if target is not None:
                    self._totals[key, slot] = _norm(ops[target[0]].received)

    def _leaves_elsewhere(self, placed: Placed, inside: Inside) -> dict[int, tuple[Key, int] | None]:
        """Leaves of a call that are the whole's: weights, and inputs that something else has made."""
        found: dict[int, tuple[Key, int] | None] = {}
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


def _norm(stats: TensorStats | None) -> float:
    return stats.norm if stats is not None else 0.0
