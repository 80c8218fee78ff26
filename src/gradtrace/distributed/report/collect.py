"""One report on its way: a sum over the world, and where that says so, a maximum, and two more for whole traces.

All ranks come to the same calls in the same order by construction: what decides on the later ones is the sum itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.distributed.report.given import largest_of, pack
from gradtrace.distributed.report.merged import merged
from gradtrace.distributed.traces.exchange import exchanged, prepared, stages_joined

if TYPE_CHECKING:
    from gradtrace.distributed.channel import Channel
    from gradtrace.distributed.layout import Layout
    from gradtrace.distributed.report.given import Decision, Given
    from gradtrace.distributed.report.merged import Merged
    from gradtrace.distributed.world import World


def collect(channel: Channel, layout: Layout, world: World, given: Given | None, decision: Decision | None) -> Merged:
    """What all ranks say of the step of which this one says `given`."""
    trace = prepared(given.trace if given is not None else None)
    num, num_buffers = len(layout.columns), len(layout.buffers)
    key = trace.pool.key if trace is not None else None
    packed = pack(given, layout.places, num + num_buffers, world.rank, world.size, decision, key)
    said = merged(channel.sum(packed), num, world.size, num_buffers)
    if said.zeros is not None:
        largest = channel.largest(largest_of(given, layout.places, num))
        said = replace(said, largest=np.where(np.isnan(said.zeros), np.nan, largest).astype(np.float32))
    if trace is not None and said.num_traced == world.size and said.is_alike:
        said = replace(said, trace=exchanged(channel, trace, world.size, reads=world.reports))
    elif trace is not None and said.num_traced == world.size and layout.is_staged:
        said = replace(said, trace=stages_joined(channel, trace.own, trace.pool.key, reads=world.reports))
    return said
