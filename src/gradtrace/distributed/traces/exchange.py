"""All ranks have a whole trace of one step, of one structure: two sums over the world, and it stands for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.distributed.traces.merge import Merging

if TYPE_CHECKING:
    from gradtrace.distributed.channel import Channel
    from gradtrace.records.trace import Trace


def prepared(trace: Trace | None) -> Merging | None:
    """What this rank would send of it; None: it has none, or one that we do not understand."""
    try:
        return None if trace is None else Merging(trace)
    except Exception:  # no other rank waits for it yet: rank 0's own stands for all
        return None


def exchanged(channel: Channel, own: Merging, num_ranks: int, *, reads: bool) -> Trace | None:
    """On all ranks at once; on one that `reads`, the trace that stands for all of them."""
    largest = channel.largest(own.pool.largest_of())
    sums = channel.sum(own.pool.sums(largest))
    if not reads:
        return None
    own.pool.read(largest, sums, num_ranks)
    return own.whole(num_ranks)
