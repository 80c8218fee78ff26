"""Which loops did the user write? A weight applied again to what came out of its last application, four times or more.

Each application y_k = W x_k + b is a step; x_k is the state, and what lies between y_k and x_{k+1} its non-linearity.
Weights that take turns (those of one block, applied again and again) are one loop: the first in each turn stands for
it, under the name of the module that holds them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from gradtrace.recurrence.chain import Recurrence
from gradtrace.tape.cells import State
from gradtrace.tape.private import node_sequence_nr

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch.autograd.graph import Node

    from gradtrace.recurrence.origins import Origins
    from gradtrace.recurrence.uses import Use, Weight

MIN_CALLS = 4
"""The same weight met that often in a row is a recurrence, in time or in shared depth."""


SIDE_BY_SIDE = 8
"""So many chains of a weight may grow in turn: streams, states that share it."""


@dataclass(frozen=True, slots=True, eq=False)
class Loop:
    """Weights that take turns."""

    module: str
    leader: Sequence[Use]
    """The applications of the first weight in each turn: what it reads are the states."""
    readers: Sequence[Sequence[Use]]
    """Of each weight that reads the very same, the leader's among them."""
    inputs: str
    """What a turn takes in beside the state: 'varying', 'same' or 'none'."""

    @property
    def num_steps(self) -> int:
        """From state to state; the last turn may be unfinished."""
        return min(map(len, self.readers)) - 1


def loops(uses: Mapping[Weight, Sequence[Use]], origins: Origins) -> list[Loop]:
    """The user's own, in the order of their first steps."""
    runs = [(weight.name, run) for weight, applied in uses.items() if len(applied) >= MIN_CALLS
            for run in _runs(applied)]  # fmt: skip
    runs.sort(key=lambda pair: pair[1][0].order)
    groups: list[list[tuple[str, list[Use]]]] = []
    for name, run in runs:
        group = next((group for group in groups if _take_turns(group[0][1], run)), None)
        if group is None:
            groups.append([(name, run)])
        else:
            group.append((name, run))
    return [_loop(group, origins) for group in groups]


def _loop(group: list[tuple[str, list[Use]]], origins: Origins) -> Loop:
    _, leader = group[0]
    readers = [run for _, run in group if all(a.value == b.value for a, b in zip(leader, run, strict=False))]
    inputs = origins.inputs([use.value for use in leader], leader[0].began)
    return Loop(_shared_module([name for name, _ in group]), leader, readers, inputs)


def unrolled_loop(loop: Loop, number: int) -> Recurrence:
    """As any other recurrence, its tensors at hand."""
    last = loop.num_steps
    return Recurrence(
        module=loop.module,
        kind="loop",
        call=number,
        states=[State(use.x) for use in loop.leader[: last + 1] if use.x is not None],
        fed=[tuple(fed for run in loop.readers if (fed := run[t].fed) is not None) for t in range(last)],
        linear=[tuple(run[t].y for run in loop.readers) for t in range(last)],
        inputs=loop.inputs,
    )


def _runs(uses: Sequence[Use]) -> Iterable[list[Use]]:
    """The uses that follow from one another.

    Two states may share a weight and take turns, as the numerator and the denominator of an average that forgets.
    """
    grown: list[list[Use]] = []
    for use in uses:
        recent = grown[: -SIDE_BY_SIDE - 1 : -1]
        which = first_below(use.made[0], [run[-1].y[0] for run in recent]) if use.made is not None else None
        run = grown.pop(len(grown) - 1 - which) if which is not None else []
        run.append(use)
        grown.append(run)  # the one that grew last is looked at first
    return [run for run in grown if len(run) >= MIN_CALLS]


def _take_turns(first: Sequence[Use], other: Sequence[Use]) -> bool:
    """Whether one use of `other` lies between any two of `first`; the last turn may be unfinished."""
    if not len(first) - 1 <= len(other) <= len(first):
        return False
    ends = [use.order for use in first[1:]] + [other[-1].order + 1]
    return all(a.order < b.order < end for a, b, end in zip(first, other, ends, strict=False))


def _shared_module(weights: Sequence[str]) -> str:
    """The innermost module that holds all of these parameters; that of the first where it is the whole model.

    >>> _shared_module(["block.0.weight", "block.1.weight"]), _shared_module(["cell.weight", "read.weight"])
    ('block', 'cell')
    >>> _shared_module(["W"])
    'W'
    """
    owners = [name.split(".")[:-1] for name in weights]
    shared = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*owners, strict=False))]
    return ".".join(shared or owners[0]) or weights[0]


def depends(later: Node, earlier: Node) -> bool:
    """Whether gradient flows from `later` to `earlier`; no node recorded before `earlier` is looked at."""
    return first_below(later, [earlier]) is not None


def first_below(later: Node, earlier: Sequence[Node]) -> int | None:
    """Which is the first of `earlier` that gradient flows to from `later`; nodes from before all of them are left."""
    if not earlier:
        return None
    floor, seen, todo = min(map(node_sequence_nr, earlier)), {later}, [later]
    while todo and earlier[0] not in seen:
        for below, _ in todo.pop().next_functions:
            if below is not None and below not in seen and floor <= node_sequence_nr(below) < 2**63:
                seen.add(below)
                todo.append(below)
    return next((i for i, node in enumerate(earlier) if node in seen), None)
