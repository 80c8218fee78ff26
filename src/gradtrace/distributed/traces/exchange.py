"""All ranks have a whole trace of one step: how does rank 0 come to one that stands for all?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gradtrace.distributed.traces.merge import Merging
from gradtrace.distributed.traces.stitch import stitched
from gradtrace.records.storage import pack, unpack
from gradtrace.records.trace import Trace

if TYPE_CHECKING:
    from gradtrace.distributed.channel import Channel


def prepared(trace: Trace | None) -> Merging | None:
    """What this rank would send of it; None: it has none, or one that we do not understand."""
    try:
        return None if trace is None else Merging(trace)
    except Exception:  # no other rank waits for it yet: rank 0's own stands for all
        return None


def stages_joined(channel: Channel, own: Trace, key: int, *, reads: bool) -> Trace | None:
    """On all ranks at once, each a stage of a pipeline; of stages that several ranks have, the first one's."""
    told = channel.tables(pack(own), key)
    if not reads:
        return None
    traces = [unpack(packed, Path(f"the trace of rank {rank}")) for rank, packed in told]
    return stitched([trace for trace in traces if isinstance(trace, Trace)])


def exchanged(channel: Channel, own: Merging, num_ranks: int, *, reads: bool) -> Trace | None:
    """On all ranks at once, of one structure: two sums over the world; where one `reads`, what stands for all."""
    largest = channel.largest(own.pool.largest_of())
    sums = channel.sum(own.pool.sums(largest))
    if not reads:
        return None
    own.pool.read(largest, sums, num_ranks)
    return own.whole(num_ranks)
