"""Watch a training from inside: which step, which layer, since when, and why; and change nothing.

A fault of ours is one warning, after which the training goes on unwatched.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
import weakref
from typing import TYPE_CHECKING, Any

from torch import nn

from gradtrace.distributed.world import find_world
from gradtrace.errors import InputError, describe
from gradtrace.measure.trace import environment
from gradtrace.monitor.hooks.guard import Guard
from gradtrace.monitor.ranks.ranks import Ranks
from gradtrace.monitor.recording.recording import Recording
from gradtrace.monitor.schedule.agreed import AgreedSchedule
from gradtrace.monitor.schedule.schedule import Schedule
from gradtrace.monitor.training import Training
from gradtrace.monitor.watched import Watched
from gradtrace.project import thresholds_here
from gradtrace.records.run import EventKind, RunHeader
from gradtrace.runs.writer import warn
from gradtrace.tape.gathered import class_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from torch import Tensor
    from torch.amp.grad_scaler import GradScaler
    from torch.optim import Optimizer
    from typing_extensions import Self

    from gradtrace.diagnosis.moved import Moved
    from gradtrace.monitor.hooks.installed import Hook
    from gradtrace.records.finding import Diagnosis
    from gradtrace.records.run import Run
    from gradtrace.records.trace import Trace

ON_NONFINITE = ("report", "stop", "skip")

NOT_SKIPPED = (
    "of sharded parameters no rank knows by itself whether a step is to be left out: "
    "what is not finite is reported and not skipped"
)


class Watch:
    """A training under watch, from `start` to `close`; `gradtrace.watch` says what the arguments are.

    There are `num_others` optimizers more that may step; `find` looks for what one trains that nobody has told of:
    models and tensors by label, or None.
    """

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
        thresholds: Mapping[str, Any] | Iterable[Moved] | None = None,
        command: Sequence[str] = (),
        notes: Sequence[str] = (),
        warn: Callable[[str], None] = warn,
        num_others: int = 0,
        find: Callable[[Optimizer], dict[str, Any] | None] | None = None,
    ) -> None:
        if on_nonfinite not in ON_NONFINITE:
            raise InputError(f"on_nonfinite must be one of {', '.join(ON_NONFINITE)}, but it is {on_nonfinite!r}")
        if not budget > 0:
            raise InputError(f"budget must be a fraction of the time above 0, but it is {budget!r}")
        if every is not None and every < 1:
            raise InputError(f"every must be a number of steps, 1 or more, but it is {every!r}")
        moved = self._moved(thresholds, warn)
        notes = (*notes, *map(str, moved))
        watched = Watched(models, optimizers)
        self._watched: Watched | None = watched
        self._frac, self._every, self._on_nonfinite = budget, every, on_nonfinite
        self._world = find_world()
        if self._world is not None and not self._world.reports:  # rank 0 tells of all
            path, sinks = None, ()
            notes = (*notes, f"this is rank {self._world.rank} of {self._world.size}: rank 0 tells of all of them")
        header = RunHeader(
            identity=uuid.uuid4().hex,
            started=time.time(),
            command=tuple(command),
            title=title or " and ".join(class_of(model).__name__ for model in watched.models.values()) or "tensors",
            parameters=watched.columns(),
            optimizers=watched.described(),
            environment=environment(),
        )
        self._warn = warn
        self._recording = Recording(path, header, sinks, warn, moved)
        for note in notes:
            self._recording.note(self._recording.first_step, note)
        self._training: Training | None = None
        self._hooks: Sequence[Hook] = ()
        """Those that could not be taken away yet."""
        self._joined: Watched | None = None
        self._find, self._num_others = find, num_others
        self._step = self._recording.first_step
        self._num_steps = self._num_waiting = 0
        """Of a watch that is closed."""
        self._closed = False
        _WATCHES.add(self)

    @staticmethod
    def _moved(given: Mapping[str, Any] | Iterable[Moved] | None, warn: Callable[[str], None]) -> tuple[Moved, ...]:
        try:
            return thresholds_here(given)
        except InputError as error:
            if given is not None:
                raise
            warn(f"the usual thresholds hold: {error}")  # a file that nobody has spoken of ends no training
            return ()

    def start(self) -> Self:
        """Install the hooks; once is enough. A watch that is closed raises `InputError`."""
        if self._closed:
            raise InputError("this watch is closed: a training that goes on needs a new gradtrace.watch(...)")
        if self._watched is None:
            return self
        watched, self._watched = self._watched, None
        options = self._frac, self._every
        measures_always = self._on_nonfinite != "report"
        ranks, schedule = None, Schedule(*options, measures_always=measures_always)
        if self._world is not None:
            ranks = Ranks(self._world, watched, self._recording, self._next_step)
            if ranks.shards.holds_parts and self._on_nonfinite == "skip":
                self._recording.note(self._step, NOT_SKIPPED)
                self._on_nonfinite, measures_always = "report", False
            schedule = AgreedSchedule(ranks, self._next_step, *options, measures_always=measures_always)
        self._guard = guard = Guard(self._fail)
        self._joined = watched
        training = Training(
            watched,
            self._recording,
            schedule,
            ranks,
            guard=guard,
            on_nonfinite=self._on_nonfinite,
            num_others=self._num_others,
            newcomer=self._newcomer,
        )
        self._training = training
        try:
            training.begin()
        except BaseException:  # a class that takes no stand-ins
            self.close(finished=False)
            raise
        return self

    def _next_step(self) -> int:
        """Of this watch, the first of which nothing is over."""
        return self._training.num_steps if self._training is not None else 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(finished=kind is None, error=error)

    def begins_within(self, optimizer: Optimizer) -> None:
        """It was started by the closure of a step of `optimizer` that is under way, which is its first."""
        if self._training is not None:
            self._guard(self._training.begin_within, optimizer)

    def step(self) -> None:
        """The end of a step, where no optimizer of `torch.optim` steps; otherwise it is seen."""
        if self._training is not None:
            self._guard(self._training.step_by_hand)

    def step_left_out(self) -> None:
        """Instead of `step`: the loss was multiplied by too much, and its gradients are let go."""
        if self._training is not None:
            self._guard(self._training.step_by_hand, True)

    def loss_is_scaled_by(self, scaler: Any) -> None:
        """What a scaler multiplies the next loss by; with `leaves_gradients` nobody divides them in place."""
        if self._training is not None:
            self._guard(self._training.scaled_by, scaler)

    def join(self, models: Any = (), optimizers: Any = ()) -> None:
        """More is trained: models (or tensors) by label, and optimizers, are watched from now on."""
        if self._training is not None:
            self._guard(self._join, dict(models), list(optimizers))
        if self._training is not None and self._joined is not None:
            self._training.expect(len(self._joined.optimizers) + self._num_others)

    def _join(self, models: dict[str, Any], optimizers: list[Any]) -> None:
        tensors = {label: one for label, one in models.items() if not isinstance(one, nn.Module)}
        modules = {label: one for label, one in models.items() if isinstance(one, nn.Module)}
        if self._joined is not None and self._training is not None:
            self._training.before_joining()
            self._joined.join(modules, tensors, optimizers)
            self._training.join()

    def _newcomer(self, optimizer: Optimizer) -> bool:
        """An optimizer steps that nobody has told us of: it joins if it holds anything that is watched, or is found."""
        joined = self._joined
        if joined is None:
            return False
        models = {} if joined.holds(optimizer) else self._find(optimizer) if self._find is not None else None
        if models is None:
            return False
        self._join(models, [optimizer])
        if models and self._training is not None:
            self._training.had_a_pass_before()
        return True

    def expect_scalers(self, scalers: Sequence[GradScaler]) -> None:
        """One of them may scale the first loss, unseen; a scaler that begins under watch is seen."""
        if self._training is not None:
            self._training.expect_scalers(scalers)

    @property
    def strangers(self) -> list[nn.Parameter]:
        """What is not watched and gets gradients from the training's backward passes, as far as that was looked at."""
        return self._training.strangers.found if self._training is not None else []

    def ask_of_strangers(self, ask: Callable[[Sequence[nn.Parameter]], Iterable[str]]) -> None:
        """After a few steps, which networks it is that they belong to and that no optimizer holds anything of."""
        if self._training is not None:
            self._training.strangers.ask = lambda found: self.unheld(ask(found))

    def unheld(self, networks: Iterable[str]) -> None:
        """Of these networks, which get gradients, no optimizer holds anything."""
        for name in networks:
            self._recording.event(self._step, EventKind.UNHELD, name)

    def close(self, *, finished: bool = True, last: Sequence[Tensor] = (), error: BaseException | None = None) -> None:
        """Take every hook away, let go of models and optimizers, and write the rest; more than once does no harm.

        `last`: of a training that was given up, what was made of its last forward pass, the latest first; `error`: what
        ended it, which a note of the run then says.
        """
        if self._closed:
            self._sweep()
            return
        self._closed, self._watched = True, None
        try:
            self._detach(last=last)
            self._sweep()
            if error is not None:
                self._recording.note(self._step, f"the training ended by {describe(error)}")
            self._recording.close(self._step, finished=finished)
        except Exception as error:
            self._warn(f"the end of the run could not be judged ({type(error).__name__}: {error})")

    def __repr__(self) -> str:
        return f"<Watch{' (closed)' if self._closed else ''}: {self.run!r}>"

    def _repr_html_(self) -> str:
        from gradtrace.report.notebook import run_html, to_html

        return run_html(self.run) + to_html(self.diagnosis)

    @property
    def run(self) -> Run:
        """The run so far, as records."""
        self.receive()
        return self._recording.run

    @property
    def num_steps(self) -> int:
        """Steps that are over, as far as anybody can know."""
        return self._training.num_steps if self._training is not None else self._num_steps

    @property
    def num_waiting(self) -> int:
        """Backward passes that no step of an optimizer has come after yet."""
        return self._training.num_waiting if self._training is not None else self._num_waiting

    @property
    def traces(self) -> tuple[Trace, ...]:
        """Whole traces so far: the first, and the latest."""
        return tuple(self._recording.judging.traces)

    @property
    def trace_steps(self) -> tuple[int, ...]:
        """The step of each of `traces`."""
        return self._recording.judging.steps

    @property
    def diagnosis(self) -> Diagnosis:
        """What is wrong by now: over time, and in the first and the latest whole trace.

        Of a step of several optimizers (a GAN) these are of the pass that the first finding was seen in.
        """
        self.receive()
        return self._recording.diagnosis()

    def report(self, path: str | Path) -> None:
        """Write what was seen as one HTML file."""
        from gradtrace.report.html import write_report

        write_report(path, self.diagnosis, self.run)

    @property
    def first_step(self) -> int:
        """Of this watch, in the run's own count: above 0 where a file goes on."""
        return self._recording.first_step

    @property
    def has_nonfinite(self) -> bool:
        """Whether a NaN or Inf has come under this watch, as far as is known; a scaler's overflow is none."""
        return self._recording.judging.is_explained

    def receive(self) -> None:
        """Send what is complete to the run and to the sinks now, and not together with later steps."""
        self._sweep()
        if self._training is not None:
            self._guard(self._training.flush)

    def _fail(self, error: Exception) -> None:
        """A fault of ours: one warning, and the training goes on unwatched."""
        if self._training is None:  # it has ended already, in another thread or within this very step
            return
        self._detach(is_faulty=True)
        sentence = f"watching ended at step {self._step} by a fault of its own ({type(error).__name__}: {error})"
        self._recording.note(self._step, sentence)
        self._warn(f"{sentence}; the training goes on")

    def leave_to_parent(self) -> None:
        """In a forked process: take every hook away, and write and send nothing, now or later."""
        training = self._let_go()
        self._closed, self._watched = True, None
        with contextlib.suppress(Exception):
            self._sweep()
        if training is not None:
            with contextlib.suppress(Exception):
                training.leave_to_parent()

    def _detach(self, *, is_faulty: bool = False, last: Sequence[Tensor] = ()) -> None:
        training = self._let_go()
        if training is None:
            return
        self._step = training.step
        try:
            training.end(is_faulty=is_faulty, last=last)
        except Exception as error:
            self._warn(f"the last steps are lost ({type(error).__name__}: {error})")
        finally:
            self._joined = None
            self._num_steps, self._num_waiting = training.num_steps, training.num_waiting
            training.leave()

    def _let_go(self) -> Training | None:
        training, self._training = self._training, None
        if training is not None:
            self._hooks = training.hooks.installed
        return training

    def _sweep(self) -> None:
        """Again at every later occasion: within an optimizer's step, not every hook can be taken away."""
        if self._training is None:
            for hook in self._hooks:
                hook.remove()


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
    thresholds: Mapping[str, Any] | Iterable[Moved] | None = None,
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
        thresholds: those that are moved, as `gradtrace.check` takes them; by default the project's.

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
        thresholds=thresholds,
    )
