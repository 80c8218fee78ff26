"""Which optimizers were never stepped, although the passes bring a gradient to what no other one moves?

The steps of each are counted, at rest as well; the gradients of what does not step are in the whole traces alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from gradtrace.monitor.watched import Watched
    from gradtrace.records.trace import Trace


def never_stepped(watched: Watched, num_steps: Mapping[int, int], reached: Collection[str]) -> list[str]:
    """For each optimizer without a step that holds some of what is `reached` alone, the name of one of these.

    `num_steps` by the seat of an optimizer.

    >>> import torch
    >>> from gradtrace.monitor.watched import Watched
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    >>> first, second = (torch.optim.SGD(layer.parameters(), lr=0.1) for layer in model)
    >>> never_stepped(Watched(model, [first, second]), {1: 20}, reached={"0.weight", "1.weight"})
    ['0.weight']
    """
    stepped = [optimizer for seat, optimizer in enumerate(watched.optimizers) if num_steps.get(seat, 0)]
    if not stepped:
        return []
    moved = {column for optimizer in stepped for column in watched.held_by(optimizer)}
    own = [[watched.names[i] for i in watched.held_by(one) if i not in moved] for one in watched.optimizers]
    return [next(name for name in names if name in reached) for names in own if any(name in reached for name in names)]


def reached_in(traces: Iterable[Trace]) -> set[str]:
    """Names of the parameters that got a gradient other than zero."""
    return {one.name for trace in traces for one in trace.parameters if one.gradient and one.gradient.norm > 0.0}
