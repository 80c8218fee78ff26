"""How do numbers come to all ranks without torch.distributed's own groups, which are the script's?

A process group of gloo that nobody else knows, on numbers of the host. Everything in here blocks, and is called in one
thread of ours, which asks whether a sum is there and waits in between, so that it can be given up at any moment.

A group that is destroyed while a sum is under way waits for the other ranks, perhaps for ever: such a one is left
undestroyed.
"""

from __future__ import annotations

import ctypes
import os
import time
import weakref
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gradtrace.tape.private import own_group, part_of_store

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from numpy.typing import NDArray

    from gradtrace.distributed.world import World

JOIN_S = 120.0
"""[seconds] So long the others are waited for; training goes on meanwhile."""

TIMEOUT = timedelta(hours=12)
"""Of a sum: a rank may evaluate, or write a checkpoint, for hours, and nobody waits for it here."""

SHORTEST_S, LONGEST_S = 0.001, 0.02
"""[seconds] Between two looks at whether a sum is there."""

MOST_NAMED = 8
"""Ranks that are named in a sentence."""


class AbandonedError(Exception):
    """The watch has ended while others were waited for."""


class AbsentError(Exception):
    """Ranks that never came; the message names them."""


class Channel:
    """To all ranks of `world`, until `is_over` is set; `idle` is called whenever others are waited for."""

    def __init__(self, world: World, is_over: threading.Event, idle: Callable[[], None]) -> None:
        self._world, self._is_over, self._idle = world, is_over, idle
        self._group: Any = None
        self._is_busy = False
        """Whether a sum is under way."""
        _CHANNELS.add(self)

    def join(self, within_s: float = JOIN_S) -> None:
        """Wait for all ranks.

        Raises:
            AbsentError: they did not come in time, or this torch cannot connect them.
            AbandonedError: the watch has ended before.
        """
        world = self._world
        if world.store is None:
            raise AbsentError("this torch does not show what its ranks share")
        store = part_of_store(world.prefix, world.store)
        store.set(f"came/{world.rank}", "1")
        num, until, pause = store.add("num_came", 1), time.monotonic() + within_s, SHORTEST_S
        while num < world.size:
            if time.monotonic() > until:
                raise AbsentError(f"{_absent(store, world.size)} did not come within {within_s:.0f} s")
            if self._is_over.wait(pause):
                raise AbandonedError
            num, pause = store.add("num_came", 0), min(2.0 * pause, 0.25)
        self._group = own_group(part_of_store("group", store), world.rank, world.size, TIMEOUT)
        if self._group is None:
            raise AbsentError("this torch was built without gloo")

    def sum(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Over all ranks, each of which gives as many; raises `RuntimeError` where a rank is gone."""
        whole = torch.from_numpy(np.array(numbers, np.float64))
        self._wait_for(self._group.allreduce([whole]))
        return whole.numpy()

    def largest(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """As `sum`, of each the largest; no NaN among them."""
        whole = torch.from_numpy(np.array(numbers, np.float64))
        options: Any = torch.distributed.AllreduceOptions()
        options.reduceOp = torch.distributed.ReduceOp.MAX
        self._wait_for(self._group.allreduce([whole], options))
        return whole.numpy()

    def tables(self, own: bytes, key: int) -> list[tuple[int, bytes]]:
        """What ranks that say different things say, each with the first rank that says it; `key` tells `own` apart.

        One sum of a number a rank, and then a broadcast for each of the different ones: all are alike as a rule.
        """
        keys = np.zeros(self._world.size)
        keys[self._world.rank] = key
        found = list[tuple[int, bytes]]()
        for rank in sorted(np.unique(self.sum(keys), return_index=True)[1].tolist()):
            length = np.zeros(1)
            if rank == self._world.rank:
                length[0] = len(own)
            text = torch.zeros(int(self.sum(length)[0]), dtype=torch.uint8)
            if rank == self._world.rank:
                text = torch.frombuffer(bytearray(own), dtype=torch.uint8)
            options = torch.distributed.BroadcastOptions()
            options.rootRank, options.rootTensor = rank, 0
            self._wait_for(self._group.broadcast([text], options))
            found.append((rank, text.numpy().tobytes()))
        return found

    def _wait_for(self, work: Any) -> None:
        self._is_busy, pause = True, SHORTEST_S
        while not work.is_completed():
            self._idle()
            if self._is_over.wait(pause):
                raise AbandonedError
            pause = min(1.5 * pause, LONGEST_S)
        self._is_busy = False
        work.wait()

    def close(self) -> None:
        """Let go; more than once does no harm."""
        if self._is_busy:
            self.leave()
        self._group = None

    def leave(self) -> None:
        """Never destroy the group: others may be in the middle of a sum."""
        group, self._group = self._group, None
        if group is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))


def _absent(store: Any, size: int) -> str:
    absent = [rank for rank in range(size) if not store.check([f"came/{rank}"])]
    return named_ranks(absent)


def named_ranks(ranks: list[int]) -> str:
    """In a sentence.

    >>> named_ranks([3]), named_ranks([1, 2]), named_ranks(list(range(1, 12)))
    ('rank 3', 'ranks 1, 2', 'ranks 1, 2, 3, 4, 5, 6, 7, 8 and 3 more')
    """
    told = ", ".join(map(str, ranks[:MOST_NAMED]))
    more = f" and {len(ranks) - MOST_NAMED} more" if len(ranks) > MOST_NAMED else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {told}{more}"


_CHANNELS: weakref.WeakSet[Channel] = weakref.WeakSet()
"""All there are: in a forked process the threads that a group would wait for are not there."""


def _leave_to_parent() -> None:
    for one in list(_CHANNELS):
        one.leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
