"""Which recurrences are there? Segments joined where one hands its state to the next, and loops of the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gradtrace.recurrence.chain import Recurrence
from gradtrace.recurrence.loops import SIDE_BY_SIDE, depends, loops, unrolled_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from gradtrace.recurrence.uses import Watched
    from gradtrace.tape.segment import Segment

MAX_CHAINS = 32
"""Recurrences that are looked at, those with the most steps first."""


def recurrences(watched: Watched, notes: list[str]) -> list[Recurrence]:
    """All of them: those of recurrent modules in the order of their first call, then loops."""
    modules = of_segments(watched.segments)
    for one in (one for one in modules if one.module_type.endswith("Cell")):
        values = [watched.uses.origins.number(state.h) for state in one.states]
        one.inputs = watched.uses.origins.inputs(values, values[1])
    notes += [f"could not look at: {fault}" for fault in dict.fromkeys(watched.faults)]
    own = loops(watched.uses.found, watched.uses.origins)
    found = modules + [unrolled_loop(loop, number) for number, loop in enumerate(own)]
    if len(found) > MAX_CHAINS:
        notes.append(f"{len(found)} recurrences: the {MAX_CHAINS} with the most steps were looked at")
        longest = sorted(found, key=lambda one: -one.num_steps)[:MAX_CHAINS]
        found = [one for one in found if one in longest]
    return found


def of_segments(
    segments: Iterable[Segment], linked: Callable[[Recurrence, Segment], str] | None = None
) -> list[Recurrence]:
    """Those of recurrent modules and functions, in the order of their first call; `linked` says as `link` how."""
    chains: dict[tuple[str, int, bool], list[Recurrence]] = {}
    for segment in segments:
        _join(chains.setdefault((segment.module, segment.layer, segment.reverse), []), segment, linked or _linked)
    return [one for grown in chains.values() for one in grown]


def _join(grown: list[Recurrence], segment: Segment, linked: Callable[[Recurrence, Segment], str]) -> None:
    """Add a segment to the chain that it goes on with, or begin a new one."""
    for chain in grown[: -SIDE_BY_SIDE - 1 : -1]:
        how = linked(chain, segment)
        if how:
            if how == "cut":
                chain.cuts[chain.num_steps] = segment.states[0]
            _append(chain, segment)
            return
    given = segment.given.h
    chain = Recurrence(
        segment.module, segment.kind, segment.call, [segment.states[0]], [], [], segment.module_type, segment.layer,
        segment.reverse, weight=segment.weights.hh, detached_start=not given.requires_grad and bool(given.any()),
    )  # fmt: skip
    _append(chain, segment)
    grown.append(chain)


def _linked(chain: Recurrence, segment: Segment) -> str:
    return link(chain.states[-1].h, segment.given.h)


def link(last: Tensor, given: Tensor) -> str:
    """'tape' where `given` is computed from `last`, 'cut' where it has its values alone, else ''."""
    if given is last:
        return "tape"
    if given.grad_fn is not None and last.grad_fn is not None:
        return "tape" if depends(given.grad_fn, last.grad_fn) else ""
    same = given.shape == last.shape and bool(last.any()) and torch.equal(given.detach(), last.detach())
    if not same:
        return ""
    return "cut" if last.requires_grad else "tape"  # without gradients nothing is cut


def _append(chain: Recurrence, segment: Segment) -> None:
    chain.segments.append(segment)
    chain.states += segment.states[1:]
    for step in segment.steps:
        chain.fed.append((step.fed,))
        chain.linear.append((step.linear,))
        chain.carried += [] if step.carried is None else [step.carried]
        chain.read += [] if step.read is None else [step.read]
