"""Which recurrences are there? Segments joined where one hands its state to the next, and loops of the user's own.

A loop is found by its weight: the same parameter applied again to what came out of its last application. Each
application y_k = W x_k + b is a step; x_k is the state, and what lies between y_k and x_{k+1} its non-linearity.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradtrace.recurrence.cells import State
from gradtrace.recurrence.unroll import Unrolled
from gradtrace.tape.private import node_sequence_nr

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn
    from torch.autograd.graph import Node

    from gradtrace.recurrence.segment import Segment

MIN_CALLS = 4
"""The same weight met that often in a row is a recurrence, in time or in shared depth."""

_LINEAR: dict[str, tuple[int, int]] = {  # name -> places of (data, weight)
    "linear": (0, 1),
    "matmul": (0, 1),
    "__matmul__": (0, 1),
    "__rmatmul__": (1, 0),
    "mm": (0, 1),
    "addmm": (1, 2),
    "conv1d": (0, 1),
    "conv2d": (0, 1),
}


@dataclass(slots=True, eq=False)
class Use:
    """One application of a weight."""

    x: Tensor
    fed: Tensor
    y: Tensor


class Watched(Unrolled):
    """`unrolled`, and every application of a parameter to something that carries gradient is noted."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.uses: dict[str, list[Use]] = defaultdict(list)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the applications of weights; all else as `Unrolled` does it."""
        places = _LINEAR.get(getattr(func, "__name__", ""))
        if places is not None and len(args) > max(places):
            for data, weight in (places, places[::-1]):
                name = self._name_of(args[weight])
                if name and isinstance(args[data], Tensor) and args[data].requires_grad and torch.is_grad_enabled():
                    x = args[data]
                    fed = x.view_as(x)
                    y = func(*args[:data], fed, *args[data + 1 :], **(kwargs or {}))
                    self.uses[name].append(Use(x, fed, y))
                    return y
        return super().__torch_function__(func, types, args, kwargs)

    def _name_of(self, weight: Any) -> str:
        if not isinstance(weight, Tensor) or weight.dim() < 2:
            return ""
        base = weight._base if weight._base is not None else weight
        return self._names.get(id(base), "")


@dataclass(slots=True, eq=False)
class Recurrence:
    """One chain of steps, with the tensors whose gradients are wanted."""

    module: str
    module_type: str
    kind: str
    layer: int
    reverse: bool
    call: int
    states: list[State]
    """t = 0 to T."""
    fed: list[tuple[Tensor, ...]]
    """t = 1 to T, of all weights that read the state."""
    linear: list[tuple[Tensor, ...]]
    carried: list[Tensor] = field(default_factory=list)
    read: list[Tensor] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    weight: Tensor | None = None
    cuts: list[int] = field(default_factory=list)
    detached_start: bool = False

    @property
    def starts(self) -> list[Tensor]:
        """The tensors that a backward pass through all of its steps ends at."""
        firsts = [segment.states[0] for segment in self.segments] or self.states[:1]
        return [x for first in firsts for x in (first.h, first.c) if x is not None and x.requires_grad]


def recurrences(watched: Watched) -> list[Recurrence]:
    """All of them: those of recurrent modules in the order of their first call, then loops."""
    groups: dict[tuple[str, int, bool], list[Segment]] = defaultdict(list)
    for segment in watched.segments:
        groups[(segment.module, segment.layer, segment.reverse)].append(segment)
    found = [one for segments in groups.values() for one in _joined(segments)]
    return found + list(_loops(watched.uses))


# -------------------------------------------------------------------------------------------------- recurrent modules


def _joined(segments: list[Segment]) -> Iterable[Recurrence]:
    chain: Recurrence | None = None
    previous: Segment | None = None
    for segment in segments:
        link = "" if previous is None else _link(previous.states[-1].h, segment.given.h)
        if chain is not None and link:
            if link == "cut":
                chain.cuts.append(len(chain.linear))
            _append(chain, segment)
        else:
            if chain is not None:
                yield chain
            chain = _new(segment)
        previous = segment
    if chain is not None:
        yield chain


def _link(last: Tensor, given: Tensor) -> str:
    """'tape' where `given` is computed from `last`, 'cut' where it has its values alone, else ''."""
    if given is last:
        return "tape"
    if given.grad_fn is not None and last.grad_fn is not None:
        return "tape" if depends(given.grad_fn, last.grad_fn) else ""
    same = given.shape == last.shape and bool(last.any()) and torch.equal(given.detach(), last.detach())
    return "cut" if same else ""


def _new(segment: Segment) -> Recurrence:
    given = segment.given.h
    chain = Recurrence(
        segment.module, segment.module_type, segment.kind, segment.layer, segment.reverse, segment.call,
        [segment.states[0]], [], [], weight=segment.weights.hh,
        detached_start=not given.requires_grad and bool(given.any()),
    )  # fmt: skip
    _append(chain, segment)
    return chain


def _append(chain: Recurrence, segment: Segment) -> None:
    chain.segments.append(segment)
    chain.states += segment.states[1:]
    for step in segment.steps:
        chain.fed.append((step.fed,))
        chain.linear.append((step.linear,))
        chain.carried += [] if step.carried is None else [step.carried]
        chain.read += [] if step.read is None else [step.read]


# --------------------------------------------------------------------------------------------------------------- loops


def _loops(uses: dict[str, list[Use]]) -> Iterable[Recurrence]:
    known: dict[tuple[int, ...], Recurrence] = {}
    for name, applied in uses.items():
        for run in _runs(applied):
            key = tuple(id(use.x) for use in run)
            if key in known:  # several weights that read the same states: one loop
                for t, use in enumerate(run[:-1]):
                    known[key].fed[t] += (use.fed,)
                    known[key].linear[t] += (use.y,)
                continue
            known[key] = Recurrence(
                name, "", "loop", 0, False, 0, [State(use.x) for use in run],
                [(use.fed,) for use in run[:-1]], [(use.y,) for use in run[:-1]],
            )  # fmt: skip
    yield from known.values()


def _runs(uses: list[Use]) -> Iterable[list[Use]]:
    run: list[Use] = []
    for use in uses:
        if run and use.x.grad_fn and run[-1].y.grad_fn and depends(use.x.grad_fn, run[-1].y.grad_fn):
            run.append(use)
            continue
        if len(run) >= MIN_CALLS:
            yield run
        run = [use]
    if len(run) >= MIN_CALLS:
        yield run


def depends(later: Node, earlier: Node) -> bool:
    """Whether gradient flows from `later` to `earlier`; no node recorded before `earlier` is looked at."""
    floor, seen, todo = node_sequence_nr(earlier), {later}, [later]
    while todo:
        node = todo.pop()
        if node is earlier:
            return True
        for below, _ in node.next_functions:
            if below is not None and below not in seen and floor <= node_sequence_nr(below) < 2**63:
                seen.add(below)
                todo.append(below)
    return False
