"""Watch a training from inside: which step, which layer, since when, and why; and change nothing.

A fault of ours is one warning, after which the training goes on unwatched.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
import weakref
from typing import TYPE_CHECKING, Any

from gradtrace.errors import InputError
from gradtrace.measure.trace import environment
from gradtrace.monitor.boundaries import Boundaries
from gradtrace.monitor.course import Course
from gradtrace.monitor.guard import Guarded
from gradtrace.monitor.logbook import Logbook
from gradtrace.monitor.schedule import Budget
from gradtrace.monitor.watched import Watched
from gradtrace.records.run import RunHeader
from gradtrace.runs.writer import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType

    from torch.amp.grad_scaler import GradScaler
    from typing_extensions import Self

    from gradtrace.records.finding import Diagnosis
    from gradtrace.records.run import Run

ON_NONFINITE = ("report", "stop", "skip")


class Watch:
    """A training under watch, from `start` to `close`; `gradtrace.watch` says what the arguments are."""

    def __init__(
        self,
        models: Any,
        optimizers: Any = (),
        *,
        path: str | Path | None = None,
        budget: float = 0.02,
        on_nonfinite: str = "report",
        every: int | None = None,
        sinks: Sequence[Any] = (),
        title: str = "",
        command: Sequence[str] = (),
        notes: Sequence[str] = (),
        warn: Callable[[str], None] = warn,
    ) -> None:
        if on_nonfinite not in ON_NONFINITE:
            raise InputError(f"on_nonfinite must be one of {', '.join(ON_NONFINITE)}, but it is {on_nonfinite!r}")
        if not budget > 0:
            raise InputError(f"budget must be a fraction of the time above 0, but it is {budget!r}")
        if every is not None and every < 1:
            raise InputError(f"every must be a number of steps, 1 or more, but it is {every!r}")
        watched = Watched(models, optimizers)
        self._watched: Watched | None = watched
        self._frac, self._every, self._on_nonfinite = budget, every, on_nonfinite
        header = RunHeader(
            identity=uuid.uuid4().hex,
            started=time.time(),
            command=tuple(command),
            title=title or " and ".join(type(model).__name__ for model in watched.models.values()),
            parameters=watched.columns(),
            optimizers=watched.described(),
            environment=environment(),
        )
        self._warn = warn
        self._logbook = Logbook(path, header, sinks, warn)
        for note in notes:
            self._logbook.note(self._logbook.first_step, note)
        self._course: Course | None = None
        self._boundaries: Boundaries | None = None
        self._step = self._logbook.first_step
        self._closed = False
        _WATCHES.add(self)

    def start(self) -> Self:
        """Install the hooks; once is enough. A watch that is closed raises `InputError`."""
        if self._closed:
            raise InputError("this watch is closed: a training that goes on needs a new gradtrace.watch(...)")
        if self._watched is None:
            return self
        watched, self._watched = self._watched, None
        self._thread = threading.get_ident()
        self._course = Course(watched, self._logbook, Budget(self._frac, self._every), self._on_nonfinite)
        guarded = Guarded(self._course, self._fail)
        try:
            self._course.begin(guarded)
            self._boundaries = Boundaries(guarded, watched.optimizers)
        except BaseException:  # an optimizer, or a class, that takes no hooks
            self.close(finished=False)
            raise
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(finished=kind is None)

    def step(self) -> None:
        """The end of a step, where no optimizer of `torch.optim` steps; otherwise it is seen."""
        if self._course is not None:
            Guarded(self._course, self._fail).end_step()

    def scaled_by(self, scaler: GradScaler) -> None:
        """Losses are multiplied from now on; a scaler that begins under watch is seen."""
        if self._course is not None:
            self._course.scaled_by(scaler)

    def close(self, *, finished: bool = True) -> None:
        """Take every hook away, let go of models and optimizers, and write the rest; more than once does no harm."""
        if self._closed:
            self._sweep()
            return
        self._closed, self._watched = True, None
        try:
            self._detach()
            self._sweep()
            self._logbook.close(self._step, finished=finished)
        except Exception as error:
            self._warn(f"the end of the run could not be judged ({type(error).__name__}: {error})")

    @property
    def run(self) -> Run:
        """The run so far, as records."""
        self._receive()
        return self._logbook.run

    @property
    def diagnosis(self) -> Diagnosis:
        """What is wrong by now: over time, and in the first and the latest whole trace."""
        self._receive()
        return self._logbook.diagnosis()

    def report(self, path: str | Path) -> None:
        """Write what was seen as one HTML file."""
        from gradtrace.report.html import write_report

        write_report(path, self.diagnosis, self.run)

    def _receive(self) -> None:
        self._sweep()
        if self._course is not None and threading.get_ident() == self._thread:
            Guarded(self._course, self._fail).receive()

    def _fail(self, error: Exception) -> None:
        """A fault of ours: one warning, and the training goes on unwatched."""
        if self._course is None:  # it has ended already, in another thread or within this very step
            return
        self._detach()
        sentence = f"watching ended at step {self._step} by a fault of its own ({type(error).__name__}: {error})"
        self._logbook.note(self._step, sentence)
        self._warn(f"{sentence}; the training goes on")

    def leave_to_parent(self) -> None:
        """In a forked process: take every hook away, and write and send nothing, now or later."""
        course, self._course = self._course, None
        self._closed, self._watched = True, None
        with contextlib.suppress(Exception):
            self._sweep()
        if course is not None:
            with contextlib.suppress(Exception):
                course.leave()

    def _detach(self) -> None:
        course, self._course = self._course, None
        if course is None:
            return
        try:
            course.end()
        except Exception as error:
            self._warn(f"the last steps are lost ({type(error).__name__}: {error})")
        finally:
            self._step = course.step
            self._sweep()
            course.leave()

    def _sweep(self) -> None:
        """Again at every later occasion: within an optimizer's step, not every hook can be taken away."""
        if self._course is None and self._boundaries is not None:
            self._boundaries.remove()


_WATCHES: weakref.WeakSet[Watch] = weakref.WeakSet()
"""All there are: a forked process leaves them to its parent."""


def _leave_to_parent() -> None:
    for one in list(_WATCHES):
        one.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def watch(
    models: Any,
    optimizers: Any = (),
    *,
    path: str | Path | None = None,
    budget: float = 0.02,
    on_nonfinite: str = "report",
    every: int | None = None,
    sinks: Sequence[Any] = (),
    title: str = "",
) -> Watch:
    """Watch a training loop from inside; no call in the loop is needed, and nothing in it changes.

    Args:
        models: a module, several, or a dict of label to module (a GAN's generator and discriminator).
        optimizers: the optimizer, or several.
        path: the run's file (SQLite), written while it trains; None: memory only.
        budget: what watching may cost, as a fraction of the time: it spaces the measurements.
        on_nonfinite: at the first NaN or Inf 'report' it, 'stop' with a `NonfiniteError`, or 'skip' such steps.
        every: trace every so many steps, whatever it costs; None: as the budget allows.
        sinks: where else the numbers go: 'tensorboard:FOLDER', 'wandb', 'mlflow', 'trackio', or functions.
        title: of the run; the models' class names by default.

    Returns:
        A context; inside and afterwards its `diagnosis` and `run` tell what was seen.

    Raises:
        InputError: no module, no optimizer, or an option that does not exist.

    >>> import torch, gradtrace
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    >>> with gradtrace.watch(model, optimizer) as watch:
    ...     for _ in range(20):
    ...         optimizer.zero_grad()
    ...         model(torch.randn(16, 4)).square().mean().backward()
    ...         optimizer.step()
    >>> len(watch.run.steps.first), watch.diagnosis.healthy
    (20, True)
    """
    return Watch(
        models,
        optimizers,
        path=path,
        budget=budget,
        on_nonfinite=on_nonfinite,
        every=every,
        sinks=sinks,
        title=title,
    )
