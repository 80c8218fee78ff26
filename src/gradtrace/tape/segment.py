"""One layer in one direction, step by step: the batch shrinks or grows where packed sequences end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from gradtrace.tape.cells import State, Step, Weights, step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor


@dataclass(slots=True, eq=False)
class Segment:
    """One layer and one direction of one call of a recurrent module, step by step in the order of processing."""

    module: str
    """Path of the module, or '' where a fused function was called without one."""
    module_type: str
    call: int
    kind: str
    layer: int
    reverse: bool
    weights: Weights
    given: State
    """The initial state as it came in."""
    states: list[State] = field(default_factory=list)
    """t = 0 (the initial state) to T."""
    steps: list[Step] = field(default_factory=list)
    """t = 1 to T."""


def layers_of(
    kind: str, flat: Sequence[Tensor], has_biases: bool, num_directions: int, hx: Any
) -> Iterator[list[tuple[Weights, State]]]:
    """Weights and initial state, by layer and direction."""
    hs, cs = hx if kind == "lstm" else (hx, None)
    width = len(flat) // len(hs)
    for layer in range(len(hs) // num_directions):
        found = []
        for index in range(layer * num_directions, (layer + 1) * num_directions):
            ih, hh, *rest = flat[index * width : (index + 1) * width]
            b_ih, b_hh = (rest[0], rest[1]) if has_biases else (None, None)
            hr = rest[-1] if len(rest) % 2 else None
            state = State(hs[index], None if cs is None else cs[index])
            found.append((Weights(ih, hh, b_ih, b_hh, hr), state))
        yield found


def run_layer(segment: Segment, data: Tensor, sizes: list[int]) -> tuple[Tensor, State]:
    """One layer in one direction over packed `data`: its output, packed, and the final state of every sequence."""
    weights = segment.weights
    gates = list(F.linear(data, weights.ih, weights.b_ih).split(sizes))
    if segment.reverse:
        gates, sizes = gates[::-1], sizes[::-1]
    states = advance(segment, gates, sizes)
    output = torch.cat([state.h for state in (states[::-1] if segment.reverse else states)])
    if segment.reverse or sizes[-1] == sizes[0]:
        return output, states[-1]
    return output, _ends(states, sizes)


def advance(segment: Segment, gates: list[Tensor], sizes: list[int]) -> list[State]:
    """Step by step; the batch shrinks (or grows, backwards) where packed sequences end."""
    start = _on_tape(segment.given, gates[0])
    state = _map(lambda x: x[..., : sizes[0], :] if x.dim() > 1 else x, start) if sizes[0] < len(start.h) else start
    segment.states.append(state)
    for size, g in zip(sizes, gates, strict=True):
        width = len(state.h)
        if state.h.dim() > 1 and size < width:
            state = _map(lambda x, size=size: x[:size], state)  # type: ignore[misc]
        elif state.h.dim() > 1 and size > width:
            fresh = _map(lambda x, a=width, b=size: x[a:b], start)  # type: ignore[misc]
            state = _both(state, fresh)
        state, record = step(segment.kind, g, state, segment.weights)
        segment.states.append(state)
        segment.steps.append(record)
    return segment.states[1:]


def _on_tape(state: State, gates: Tensor) -> State:
    """An initial state that needs no gradient is given one: dL/dh_0 spans the whole sequence."""
    if not (torch.is_grad_enabled() and gates.requires_grad):
        return state
    return _map(lambda x: x if x.requires_grad else x.detach().requires_grad_(), state)


def _ends(states: list[State], sizes: list[int]) -> State:
    """The state of each sequence at its own last step; sequences are sorted, the longest first."""
    parts, end = [], 0
    for state, size in zip(reversed(states), reversed(sizes), strict=True):
        if size > end:
            parts.append(_map(lambda x, a=end, b=size: x[a:b], state))  # type: ignore[misc]
            end = size
    h = torch.cat([part.h for part in parts])
    return State(h, torch.cat([part.c for part in parts if part.c is not None]) if states[0].c is not None else None)


def _both(a: State, b: State) -> State:
    c = torch.cat((a.c, b.c)) if a.c is not None and b.c is not None else None
    return State(torch.cat((a.h, b.h)), c)


def _map(function: Callable[[Tensor], Tensor], state: State) -> State:
    return State(function(state.h), None if state.c is None else function(state.c))
