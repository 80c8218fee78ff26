"""The tape of a step without the insides of calls: what lies between the loss and the models' outputs, and the leaves.

An op belongs to the call during which it was recorded, by its number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gradtrace.tape.graph import Graph
from gradtrace.tape.kinds import LEAF
from gradtrace.tape.private import node_sequence_nr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.autograd.graph import Node

    from gradtrace.monitor.nonfinite.forward_calls import Call
    from gradtrace.monitor.traces.replayed import World
    from gradtrace.tape.graph import Edge


class Unfit(Exception):  # noqa: N818  # nobody's error
    """Why the step at hand cannot be traced, in half a sentence."""


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor that a call returned."""

    call: int
    """Its number in the step."""
    tensor: int
    """Which of its output tensors."""


Entries = dict["Edge", Output]
"""(op at which a call is entered, which of its outputs) -> what that is of the call."""

Origins = dict[int, "Edge | Output"]
"""Input tensor of a call -> the op outside of calls that made it, or the earlier call."""


@dataclass(slots=True)
class Looked:
    """One call of a watched module in the step at hand."""

    call: Call
    world: World
    path: str
    made: list[tuple[Node, int] | None]
    """By input tensor: the op that made it, and which of that op's outputs it is."""
    start: int
    """The number of the first op that was recorded in it."""
    source: str
    """``file.py:12`` of the line that made it: what lies in no file of the user's is told by that."""
    end: int = -1
    outputs: dict[tuple[Node, int], int] = field(default_factory=dict)
    """Op and which of its outputs -> output tensor, of those that the call itself made."""
    is_random: bool = False
    """Whether random numbers were drawn in it."""


def outline(whole: Graph, calls: Sequence[Looked]) -> tuple[Graph, Entries]:
    """The ops outside of calls, those at which calls are entered, which lead nowhere, and the leaves.

    Raises:
        Unfit: the loss depends on a value from inside of a call that the call did not return.
    """
    owners = [_owner(node, calls) for node in whole.nodes]
    entries: Entries = {}
    for index, targets in enumerate(whole.targets):
        for target in targets:
            owner = owners[target[0]] if target is not None else None
            if target is not None and owner is not None and owner != owners[index]:
                entries[target] = _output(whole.nodes[target[0]], target[1], owner, calls)
    if owners and owners[0] is not None:  # the loss is what a call returned: one number, of one op's
        entries[0, 0] = _output(whole.nodes[0], 0, owners[0], calls)
    heads = {index for index, _ in entries}
    kept = [i for i, owner in enumerate(owners) if owner is None or i in heads]
    places = {index: place for place, index in enumerate(kept)}
    targets_kept: list[tuple[Edge | None, ...]] = []
    for i in kept:
        told = whole.targets[i] if owners[i] is None else (None,) * len(whole.targets[i])
        targets_kept.append(tuple((places[pair[0]], pair[1]) if pair is not None else None for pair in told))
    arrivals: dict[Edge, list[Edge]] = {}
    for source, pairs in enumerate(targets_kept):
        for slot, pair in enumerate(pairs):
            if pair is not None:
                arrivals.setdefault(pair, []).append((source, slot))
    graph = Graph(
        tuple(whole.nodes[i] for i in kept),
        tuple(targets_kept),
        {target: tuple(edges) for target, edges in arrivals.items()},
    )
    return graph, {(places[index], port): found for (index, port), found in entries.items()}


def _output(node: Node, port: int, owner: int, calls: Sequence[Looked]) -> Output:
    tensor = calls[owner].outputs.get((node, port))
    if tensor is None:
        raise Unfit(f"a value from inside of {calls[owner].path or 'the model'} reaches the loss, not by its output")
    return Output(owner, tensor)


def _owner(node: Node, calls: Sequence[Looked]) -> int | None:
    if node.name() == LEAF:
        return None
    number = node_sequence_nr(node)
    return next((i for i, looked in enumerate(calls) if looked.start <= number < looked.end), None)


def found_origins(looked: Looked, calls: Sequence[Looked], graph: Graph) -> Origins:
    """Where the gradient of each input of a call goes on to; `graph` is the outline."""
    places = {node: index for index, node in enumerate(graph.nodes)}
    found: Origins = {}
    for i, made in enumerate(looked.made):
        owner = _owner(made[0], calls) if made is not None else None
        if made is None:
            continue
        if owner is None and made[0] in places:
            found[i] = (places[made[0]], made[1])
        elif owner is not None and made in calls[owner].outputs:
            found[i] = Output(owner, calls[owner].outputs[made])
    return found
