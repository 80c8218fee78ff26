"""What a rank gives goes out, and what all of them gave comes in, in a thread of its own; nobody waits for it.

Reports go one after the other, in the order in which they were given. A rank whose process lives leaves word of the
step that it is at, so that one that has fallen silent can be named.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING

from gradtrace.distributed.channel import AbandonedError, AbsentError, Channel, named_ranks
from gradtrace.distributed.layout import agree
from gradtrace.distributed.report.collect import collect
from gradtrace.distributed.world import is_over
from gradtrace.tape.private import part_of_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gradtrace.distributed.layout import Layout
    from gradtrace.distributed.report.given import Decision, Given
    from gradtrace.distributed.report.merged import Merged
    from gradtrace.distributed.world import World
    from gradtrace.records.run import WatchedParameter

ALIVE_EVERY_S = 2.0
"""[seconds] Between two signs of life of a rank in a world of up to a hundred; in larger ones in proportion."""

ASK_EVERY_S = 0.2
"""[seconds] Between two looks for a word that is asked for."""

SILENT_S = 30.0
"""[seconds] So long after the others a rank is missed."""


class Correspondence:
    """Of one rank, from `begin` to `abandon`.

    Args:
        world: of this rank.
        columns: what it watches.
        step: where it is, as its sign of life.
        decide: which steps are to be reported next, asked as a report sets off; None: that is not for this one to say.
        tell: takes a sentence, in the thread of this.
        buffers: those that should be the same on all ranks.
    """

    def __init__(
        self,
        world: World,
        columns: Sequence[WatchedParameter],
        step: Callable[[], int],
        decide: Callable[[], Decision | None],
        tell: Callable[[str], None],
        buffers: Sequence[WatchedParameter] = (),
    ) -> None:
        self._buffers = tuple(buffers)
        self._world, self._columns, self._step, self._decide, self._tell = world, tuple(columns), step, decide, tell
        self._outgoing: deque[tuple[int, Given | None]] = deque()
        self._incoming: deque[tuple[int, Merged]] = deque()
        self._has_work, self._is_over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="gradtrace ranks", daemon=True)
        self.owner = os.getpid()
        """The process that has the thread: not one that is forked from it."""
        self._alive_at = 0.0
        self._heard: dict[int, tuple[str, float]] = {}
        self._missed: set[int] = set()
        self._words: deque[tuple[str, str]] = deque()
        self._asked: str | None = None
        self.heard: dict[int, str] = {}
        """What was asked for, by rank."""
        self.layout: Layout | None = None
        """As soon as all ranks have come."""
        self.fault: str | None = None
        """Why there will be no more reports."""
        _LIVING.add(self)

    def begin(self) -> None:
        """The others are awaited from now on."""
        self._thread.start()

    def give(self, step: int, given: Given | None) -> None:
        """This rank's part of the next report, which is of `step`."""
        self._outgoing.append((step, given))
        self._has_work.set()

    def leave_word(self, name: str, text: str) -> None:
        """For whoever asks for it."""
        self._words.append((name, text))
        self._has_work.set()

    def ask(self, name: str) -> None:
        """Who has left word under this name? `heard` tells, some time later."""
        self._asked = name
        self._has_work.set()

    def arrived(self) -> Iterator[tuple[int, Merged]]:
        """Reports that have come back, in order, each with its step."""
        while self._incoming:
            yield self._incoming.popleft()

    @property
    def is_idle(self) -> bool:
        """Whether all that was given has come back, or never will."""
        return not (self._outgoing or self._words) or not self._thread.is_alive()

    def abandon(self) -> None:
        """Let go; more than once does no harm."""
        self._is_over.set()
        self._has_work.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _run(self) -> None:
        channel = Channel(self._world, self._is_over, self._idle)
        try:
            channel.join()
            self._signs = part_of_store(self._world.prefix, self._world.store)
            self.layout = agree(channel, self._columns, self._buffers)
            while not self._is_over.is_set():
                self._idle()
                self._pass_words()
                if self._outgoing:
                    self._report(channel, self.layout)
                else:
                    self._has_work.wait(ALIVE_EVERY_S if self._asked is None else ASK_EVERY_S)
                    self._has_work.clear()
        except AbandonedError:
            pass
        except AbsentError as error:
            self.fault = str(error)
        except Exception as error:
            self.fault = f"the connection to the other ranks is lost ({_first_line(error)})"
        finally:
            self._outgoing.clear()
            channel.close()

    def _report(self, channel: Channel, layout: Layout) -> None:
        step, given = self._outgoing[0]
        self._incoming.append((step, collect(channel, layout, self._world, given, self._decide())))
        self._outgoing.popleft()

    def _pass_words(self) -> None:
        with contextlib.suppress(RuntimeError):  # the store may be gone by now
            while self._words and self.layout is not None:
                name, text = self._words.popleft()
                self._signs.set(f"{name}/{self._world.rank}", text)
            for rank in range(self._world.size) if self._asked is not None else ():
                key = f"{self._asked}/{rank}"
                if rank not in self.heard and self._signs.check([key]):
                    self.heard[rank] = self._signs.get(key).decode()

    # ------------------------------------------------------------------------------------------------- signs of life

    def _idle(self) -> None:
        if self._words:
            self._pass_words()
        now = time.monotonic()
        if (
            now - self._alive_at < ALIVE_EVERY_S * max(1.0, self._world.size / 100.0)
            or self.layout is None
            or is_over()
        ):
            return
        self._alive_at = now
        with contextlib.suppress(RuntimeError):  # the store may be gone by now
            self._signs.set(f"alive/{self._world.rank}", f"{self._step()} {now}")
            if self._world.reports and self._outgoing:
                self._listen(now)

    def _listen(self, now: float) -> None:
        """Who has given no sign of life for long?"""
        for rank in range(1, self._world.size):
            key = f"alive/{rank}"
            sign = self._signs.get(key).decode() if self._signs.check([key]) else ""
            before = self._heard.get(rank)
            if before is None or before[0] != sign:
                self._heard[rank] = sign, now
        silent = [rank for rank, (_, at) in self._heard.items() if now - at > SILENT_S and rank not in self._missed]
        for rank in silent:
            self._missed.add(rank)
            step = self._heard[rank][0].split(" ")[0] or "0"
            self._tell(f"{named_ranks([rank])} has fallen silent: the last sign of it was at its step {step}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


_LIVING: weakref.WeakSet[Correspondence] = weakref.WeakSet()


@atexit.register
def _abandon_all() -> None:
    """No thread of ours is inside of torch when the interpreter ends."""
    for one in list(_LIVING):
        if one.owner == os.getpid():
            one.abandon()
