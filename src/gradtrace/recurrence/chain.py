"""A recurrence as it lies on the tape: its states, and the tensors whose gradients tell what each step did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.autograd.graph import Node

    from gradtrace.tape.cells import State
    from gradtrace.tape.segment import Segment

    Place = Tensor | tuple[Node, int]


@dataclass(slots=True, eq=False)
class Recurrence:
    """One chain of steps, t = 1 to T, in the order of processing."""

    module: str
    kind: str
    call: int
    states: list[State]
    """t = 0 to T."""
    fed: list[tuple[Place, ...]]
    """The state of t-1 as each weight that reads it meets it, t = 1 to T."""
    linear: list[tuple[Place, ...]]
    """What these weights made of it."""
    module_type: str = ""
    layer: int = 0
    reverse: bool = False
    carried: list[Tensor] = field(default_factory=list)
    read: list[Tensor] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    weight: Tensor | None = None
    cuts: dict[int, State] = field(default_factory=dict)
    """Step whose state was handed on without the tape -> the copy that the next step was given."""
    detached_start: bool = False
    inputs: str = "varying"
    """What a step takes in beside the state: 'varying', 'same' or 'none'."""

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.linear)

    @property
    def starts(self) -> list[Tensor]:
        """The tensors that a backward pass through all of its steps ends at."""
        firsts = [segment.states[0] for segment in self.segments] or self.states[:1]
        return [x for first in firsts for x in (first.h, first.c) if x is not None and x.requires_grad]
