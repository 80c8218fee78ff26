"""What is the same under every trainer: a watch from its beginning to its end, and what it has to say on the way.

Numbers wait until the trainer logs; findings are told when they are found; `must_stop` is for the trainer to look at.
"""

from __future__ import annotations

import atexit
import inspect
import weakref
from typing import TYPE_CHECKING, Any

from gradtrace.errors import InputError
from gradtrace.integrations.raising import end_where
from gradtrace.monitor.recording.sinks.sink import PREFIX, Sink
from gradtrace.monitor.watch import Watch, watch
from gradtrace.records.run import Scalar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gradtrace.integrations.raising import Raises

STOP_ON = (None, "nonfinite")

_OPTIONS = frozenset(inspect.signature(watch).parameters) - {"models", "optimizers"}
_OF_THE_STEP = frozenset(f"{PREFIX}{name}" for name in Scalar)
"""What is known of a step as a whole; of every parameter the run's file and `sinks` know more."""


class Follower(Sink):
    """Follows one training after the other; as the sink of the watch it keeps numbers and passes findings on."""

    def __init__(self, stop_on: str | None, options: Mapping[str, Any], raises: Raises | None = None) -> None:
        if stop_on not in STOP_ON:
            raise InputError(f"stop_on must be None or 'nonfinite', but it is {stop_on!r}")
        if unknown := sorted(set(options) - _OPTIONS):
            raise InputError(f"there is no option {unknown[0]!r}; there are stop_on, {', '.join(sorted(_OPTIONS))}")
        if stop_on is not None and "on_nonfinite" in options:
            raise InputError("stop_on leaves the bad step out by itself: on_nonfinite must not be given beside it")
        self.stops = stop_on is not None
        self._options = dict(options) | ({"on_nonfinite": "skip"} if self.stops else {})
        self.watch: Watch | None = None
        """Of the training at hand, or the latest."""
        self._tell: Callable[[str], object] | None = None
        self._offset = 0
        """From the run's steps to the trainer's."""
        self._waiting: list[tuple[int, dict[str, float]]] = []
        self._latest: dict[str, float] = {}
        self._raises = raises
        """Where the trainer raises without telling of it."""
        if raises is not None:
            end_where(raises, self)

    def begin(
        self,
        models: Any,
        optimizers: Any,
        *,
        tell: Callable[[str], object],
        at: int = 0,
        is_main: bool = True,
        title: str = "",
    ) -> None:
        """A training begins at the trainer's step `at`; of several processes only the main one keeps and tells."""
        self.end(finished=False)
        options = dict(self._options)
        options["sinks"] = [self, *options.get("sinks", ())] if is_main else []
        options["path"] = options.get("path") if is_main else None
        options["title"] = options.get("title") or title
        notes = [f"this is step {at} of the trainer"] if at else []
        begun = Watch(models, optimizers, notes=notes, **options).start()
        self.watch, self._tell, self._offset = begun, tell, at - begun.first_step
        _BEGUN.add(self)
        self._waiting, self._latest = [], {}

    def end(self, *, finished: bool, error: BaseException | None = None) -> None:
        """It is over, or `error` ended it; more than once does no harm. What was still to be told is told."""
        if self.watch is not None:
            self.watch.close(finished=finished, error=error)
        self._tell = None

    @property
    def must_stop(self) -> bool:
        """Whether the trainer is to be stopped."""
        return self.stops and self.watch is not None and self.watch.has_nonfinite

    def arrived(self) -> list[tuple[int, dict[str, float]]]:
        """What nobody has taken yet: the numbers of a step, by the trainer's step."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def latest(self) -> dict[str, float]:
        """The numbers of the latest step that was measured, of this moment; {} where they are the same as before."""
        if self.watch is not None:
            self.watch.receive()
        latest, self._latest = self._latest, {}
        self._waiting.clear()
        return latest

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Those of the step as a whole are kept."""
        whole = {name: value for name, value in values.items() if name in _OF_THE_STEP}
        if whole:
            self._latest = whole
            self._waiting.append((step + self._offset, whole))

    def text(self, step: int, name: str, text: str) -> None:
        """A finding."""
        if self._tell is not None:
            self._tell(f"gradtrace, by step {step + self._offset}: {text}")

    def __getstate__(self) -> dict[str, Any]:
        """Who copies a trainer copies what was asked for, and no watch."""
        return {**self.__dict__, "watch": None, "_tell": None, "_waiting": [], "_latest": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._raises is not None:
            end_where(self._raises, self)


_BEGUN: weakref.WeakSet[Follower] = weakref.WeakSet()


@atexit.register
def _end_with_the_process() -> None:
    """A training that nobody has ended: its loop raised, and no trainer told of it."""
    for follower in list(_BEGUN):
        follower.end(finished=False)
