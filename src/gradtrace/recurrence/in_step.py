"""The recurrences of a real training step: fused ones and cells made once more, the user's own loops as they lie there.

A loop of the user's is on the tape, op by op. Its states are what a weight was applied to again and again, and what
reached each of them, and each application, the trace has measured. A random gradient was not sent through it: such a
chain has no `reach`.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gradtrace.records.time import Chain, ThroughTime
from gradtrace.recurrence.found import MAX_CHAINS
from gradtrace.recurrence.fused import FusedCalls, by_number
from gradtrace.recurrence.loops import MIN_CALLS, loops
from gradtrace.recurrence.sentences import sentences
from gradtrace.recurrence.uses import Uses
from gradtrace.tape.private import inside_fake, inside_functorch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn
    from torch.autograd.graph import Node

    from gradtrace.records.trace import Op, Site, Trace
    from gradtrace.recurrence.loops import Loop
    from gradtrace.recurrence.uses import Use


class Recurrences:
    """Those of one forward pass of `model`, told by who sees its torch functions.

    What goes wrong here costs nothing but them: `fault` says it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._uses = Uses(model, holds=False)
        self._fused = FusedCalls(self._uses.origins)
        self.fault = ""

    def before(self, name: str, function: Callable[..., Any], args: Any, kwargs: Any, site: Site) -> Any:
        """`function` is about to be called; what is returned goes to `after`."""
        with self._guard():
            if not (self.fault or inside_functorch() or inside_fake()):
                return self._uses.place(name, args), self._fused.before(function, args, kwargs, site)
        return None

    def after(self, name: str, args: Any, kwargs: Any, result: Any, seen: Any) -> None:
        """It made `result`; `seen` is what `before` returned."""
        if seen is not None:
            place, held = seen
            with self._guard():
                self._uses.made(name, args, kwargs, result, place)
                self._fused.after(held, result)

    def arm(self, nodes: Sequence[Node]) -> None:
        """The backward pass through `nodes` is about to begin."""
        with self._guard():
            self._fused.arm(nodes)

    def close(self) -> None:
        """Let go of everything; more than once does no harm."""
        self._fused.close()
        self._uses.found.clear()

    def chains(self, nodes: Sequence[Node], ops: Sequence[Op]) -> tuple[Chain, ...]:
        """Each of them step by step, where `ops` is what was measured of `nodes`; then all is let go of."""
        chains: list[Chain] = []
        if self._fused.is_too_large:
            self.fault = "recurrences were too large to be looked at step by step"
        with self._guard():
            chains += self._fused.chains()
            chains += self._own(nodes, ops)
        self.close()
        longest = sorted(chains, key=lambda chain: -chain.num_steps)[:MAX_CHAINS]
        return tuple(chain for chain in chains if chain in longest)

    def _own(self, nodes: Sequence[Node], ops: Sequence[Op]) -> list[Chain]:
        index = {node: i for i, node in enumerate(nodes)}
        numbers = by_number(nodes)
        uses = {
            weight: [found for use in applied if (found := _on_graph(use, numbers)) is not None]
            for weight, applied in self._uses.found.items()
            if len(applied) >= MIN_CALLS
        }
        chains = [_on_tape(loop, n, index, ops) for n, loop in enumerate(loops(uses, self._uses.origins))]
        return [chain for chain in chains if chain is not None]

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            first = str(error).strip().split("\n")[0]
            self.fault = f"what recurrences do to the gradient was not measured ({type(error).__name__}: {first})"


def _on_graph(use: Use, numbers: dict[int, Node]) -> Use | None:
    """`use` with the ops themselves; None where the loss does not depend on it."""
    y, x = numbers.get(use.y[0]), numbers.get(use.made[0]) if use.made is not None else None
    if y is None:
        return None
    return replace(use, y=(y, use.y[1]), made=(x, use.made[1]) if x is not None and use.made is not None else None)


def with_chains(trace: Trace, title: str, chains: tuple[Chain, ...], scale: float = 1.0) -> Trace:
    """`trace`, and what its recurrences do to the gradient; as it is where there are none.

    `scale` is what a scaler has multiplied its gradients by.
    """
    if not chains:
        return trace
    norms = [parameter.gradient.norm for parameter in trace.parameters if parameter.gradient is not None]
    norm = math.sqrt(math.fsum(norm * norm for norm in norms)) / scale
    record = ThroughTime(title, trace.loss / scale, norm, chains)
    return replace(trace, through_time=replace(record, sentences=sentences(record)))


def _on_tape(loop: Loop, number: int, index: dict[Node, int], ops: Sequence[Op]) -> Chain | None:
    """A loop, from where its first state is on the tape; None where the trace has not measured its states."""
    last = loop.num_steps
    hidden = [_received(use.made, index, ops) for use in loop.leader[: last + 1]]
    start = next((t for t, norm in enumerate(hidden) if norm is not None), last + 1)
    states = [norm for norm in hidden[start:] if norm is not None]
    if len(states) < max(2, last + 1 - start):
        return None
    turns = [[run[t] for run in loop.readers] for t in range(start, last)]
    return Chain(
        module=loop.module, module_type="", kind="loop", layer=0, direction="forward", call=number,
        hidden=tuple(states),
        linear=tuple(math.hypot(*(_received(use.y, index, ops) or 0.0 for use in turn)) for turn in turns),
        recurrent=tuple(_passed(turn, index, ops) for turn in turns),
        num_weights=len(loop.readers), inputs=loop.inputs,
    )  # fmt: skip


def _received(place: tuple[Node, int] | None, index: dict[Node, int], ops: Sequence[Op]) -> float | None:
    """Norm of the gradient of what an op made; None where that is not known, 0 where none came."""
    if place is None or place[0] not in index or place[1] != 0:
        return None
    stats = ops[index[place[0]]].received
    return 0.0 if stats is None else stats.norm


def _passed(turn: Sequence[Use], index: dict[Node, int], ops: Sequence[Op]) -> float:
    """Norm of what came back to the state through the only weight that reads it; NaN where that is not known."""
    use = turn[0]
    if len(turn) > 1 or use.y[0] not in index or use.made is None or use.made[0] not in index:
        return math.nan
    op, target = ops[index[use.y[0]]], (index[use.made[0]], use.made[1])
    slots = [slot for slot, place in enumerate(op.targets) if place == target]
    stats = op.passed[slots[0]] if len(slots) == 1 else None
    return math.nan if stats is None else stats.norm
