"""Watch a training from inside: which step, which layer, since when, and why; and change nothing.

Two tiers. At every step fused norms of the gradients, and now and then of weights and updates; at sampled steps the
whole trace. See `boundaries`, `tally`, `sample`, `schedule` and `flight` for the parts. A fault of ours is
one warning, after which the training goes on unwatched.
"""

from __future__ import annotations

import math
import time
import uuid
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from gradtrace.checkup.trial import describe_optimizer
from gradtrace.diagnosis.judge import judge
from gradtrace.diagnosis.ranking import rank
from gradtrace.diagnosis.timeline.judge import judge_run
from gradtrace.errors import InputError, NonfiniteError
from gradtrace.measure.trace import environment
from gradtrace.monitor.boundaries import Boundaries
from gradtrace.monitor.flight import FlightRecorder
from gradtrace.monitor.norms import Ferry
from gradtrace.monitor.sample import Sample
from gradtrace.monitor.schedule import Budget
from gradtrace.monitor.sinks.choice import as_sink
from gradtrace.monitor.sinks.feed import Feed
from gradtrace.monitor.tally import Tally
from gradtrace.monitor.watched import Watched
from gradtrace.records.exhibit import Exhibit
from gradtrace.records.finding import Diagnosis
from gradtrace.records.run import EventKind, RunEvent, RunHeader, Scalar, Series
from gradtrace.records.vocabulary import Cause, Symptom
from gradtrace.runs.writer import RunWriter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from torch import Tensor
    from torch.amp.grad_scaler import GradScaler
    from torch.optim import Optimizer

    from gradtrace.records.finding import Finding
    from gradtrace.records.run import Run
    from gradtrace.records.trace import Trace

ON_NONFINITE = ("report", "stop", "skip")

MOST_TRACES = 8
"""Whole traces kept in memory: the first, and the latest."""

UPDATES_EVERY = 10
"""Steps between two measurements of updates, which need a copy of the weights."""


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
    ) -> None:
        if on_nonfinite not in ON_NONFINITE:
            raise InputError(f"on_nonfinite must be one of {', '.join(ON_NONFINITE)}, but it is {on_nonfinite!r}")
        if not budget > 0:
            raise InputError(f"budget must be a fraction of the time above 0, but it is {budget!r}")
        self._watched = Watched(models, optimizers)
        self._on_nonfinite = on_nonfinite
        self._frac, self._every = budget, every
        title = title or " and ".join(type(model).__name__ for model in self._watched.models.values())
        self._header = RunHeader(
            identity=uuid.uuid4().hex,
            started=time.time(),
            command=tuple(command),
            title=title,
            parameters=self._watched.columns(),
            optimizers=tuple(describe_optimizer(one, self._watched.whole) for one in self._watched.optimizers),
            environment=environment(),
        )
        self._writer = RunWriter(path, self._header)
        self._step = self._writer.next_step
        for note in notes:
            self._writer.note(self._step, note)
        self._feed = Feed([as_sink(sink, title) if isinstance(sink, str) else sink for sink in sinks], self._warn)
        self._ferry = Ferry()
        self._traces: list[Trace] = []
        self._nonfinite: Finding | None = None
        self._boundaries: Boundaries | None = None
        self._flights: list[FlightRecorder] = []
        self._sample: Sample | None = None
        self._tally = Tally(self._watched)
        self._scaler: GradScaler | None = None
        self._stepped: set[int] = set()
        self._active: set[int] = set()
        self._usual_backwards = 1
        self._arrivals: list[tuple[int, int]] = []
        self._last_update = -UPDATES_EVERY
        self._is_bad = self._is_left_out = False
        self._closed = False

    # ------------------------------------------------------------------------------------------------- what users call

    def start(self) -> Self:
        """Install the hooks."""
        self._budget = Budget(self._frac, self._every)
        self._began = time.perf_counter()
        if self._step:
            self._writer.event(RunEvent(self._step, EventKind.RESUMED, "the file was opened again"))
        self._boundaries = Boundaries(Guarded(self), self._watched.optimizers)
        if self._watched.compiled:
            self._writer.note(self._step, "a model is compiled: norms are taken at every step, whole traces are not")
        else:
            self._flights = [FlightRecorder(model) for model in self._watched.models.values()]
        self._arm()
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(finished=kind is None)

    def step(self) -> None:
        """The end of a step, where no optimizer of `torch.optim` steps; otherwise it is seen."""
        Guarded(self).end_step()

    def close(self, *, finished: bool = True) -> None:
        """Take every hook away and write the rest; more than once does no harm."""
        if self._closed:
            return
        self._closed = True
        self._detach()
        self._receive(wait=True)
        self._writer.findings(self._judged())
        self._writer.close(finished=finished)
        self._feed.close()

    @property
    def run(self) -> Run:
        """The run so far, as records."""
        return self._writer.snapshot()

    @property
    def diagnosis(self) -> Diagnosis:
        """What is wrong by now: over time, and in the first and the latest whole trace."""
        shown = self._traces[:1] + self._traces[1:][-1:]
        return Diagnosis(self._judged(), tuple(shown), title=self._header.title)

    def report(self, path: str | Path) -> None:
        """Write what was seen as one HTML file."""
        from gradtrace.report.html import write_report

        write_report(path, self.diagnosis, self.run)

    # -------------------------------------------------------------------------------------------------- what hooks tell

    def before_backward(self, roots: Sequence[Tensor], create_graph: bool) -> None:
        """The loss is known, the gradients are not."""
        loss = roots[0]
        self._arrivals = self._watched.arrivals()
        if loss.device.type == "cpu" and loss.numel() == 1:
            value = float(loss.detach())
            if math.isnan(value) or (math.isinf(value) and self._scale is None):  # a scaler lets go of its own Infs
                self._explain(loss)
        if self._sample is not None and not create_graph:
            self._sample.before_backward(loss)

    def after_backward(self, roots: Sequence[Tensor]) -> None:
        """The gradients are there, and nobody has clipped them yet."""
        if self._arrivals == self._watched.arrivals():
            return  # of another model
        scale = self._scale
        self._tally.add_loss(roots[0], scale)
        if self._sample is not None and (trace := self._sample.after_backward(scale)) is not None:
            self._keep(trace)
        if self._tally.num_backwards >= self._usual_backwards:
            begun = time.perf_counter()
            norm = self._tally.measure_gradients(scale)
            if norm.device.type == "cpu" and scale is None and not math.isfinite(float(norm)):
                self._explain(roots[0])
            self._budget.spend("norms", time.perf_counter() - begun)

    def before_step(self, optimizer: Optimizer) -> None:
        """Clipped and unscaled; the weights are still as the gradients saw them."""
        begun = time.perf_counter()
        self._tally.before_step(self._watched.held_by(optimizer))
        early = self._step & (self._step - 1) == 0
        if not self._stepped and self._tally.is_measured and (early or self._step - self._last_update >= UPDATES_EVERY):
            self._tally.remember_weights()
            self._last_update = self._step
        self._budget.spend("norms", time.perf_counter() - begun)
        if self._is_bad and self._on_nonfinite == "skip":
            for parameter in [parameter for group in optimizer.param_groups for parameter in group["params"]]:
                parameter.grad = None
            self._writer.event(RunEvent(self._step, EventKind.SKIPPED, "this optimizer step was left out: not finite"))

    def after_step(self, optimizer: Optimizer) -> None:
        """The weights have moved; with several optimizers a step is over when all have, or one does again."""
        if id(optimizer) in self._stepped:
            self.end_step()
        self._stepped.add(id(optimizer))
        if self._stepped >= self._active:
            self.end_step()

    def scaled_by(self, scaler: GradScaler) -> None:
        """Losses are multiplied from now on."""
        self._scaler = scaler

    def step_left_out(self, optimizer: Optimizer) -> None:
        """By a scaler, for an overflow."""
        self._writer.event(RunEvent(self._step, EventKind.SKIPPED, "the GradScaler left the step out: overflow"))
        self._is_left_out = True
        self.end_step()

    def end_step(self) -> None:
        """Send the numbers off, and begin anew."""
        begun = time.perf_counter()
        self._active |= self._stepped
        told = self._tally.has_loss and not self._is_left_out  # a scaler that finds its scale is healthy
        what = (self._step, begun - self._began, told, self._is_bad)
        self._ferry.send(what, self._tally.packed(self._scale))
        self._receive()
        self._usual_backwards = max(1, self._tally.num_backwards)
        for flight in self._flights:
            flight.forget()
        if self._sample is not None:
            self._sample.close()
            self._budget.traced(self._step, self._sample.seconds)
            self._sample = None
        self._step += 1
        self._tally, self._stepped = Tally(self._watched), set()
        self._is_bad = self._is_left_out = False
        self._budget.spend("norms", time.perf_counter() - begun)
        self._arm()

    def fail(self, error: Exception) -> None:
        """A fault of ours: one warning, and the training goes on unwatched."""
        self._detach()
        sentence = f"watching ended at step {self._step} by a fault of its own ({type(error).__name__}: {error})"
        self._writer.note(self._step, sentence)
        self._warn(f"{sentence}; the training goes on")

    # ------------------------------------------------------------------------------------------------------- inside

    @property
    def _scale(self) -> Tensor | None:
        scaler = self._scaler
        return getattr(scaler, "_scale", None) if scaler is not None and scaler.is_enabled() else None

    def _arm(self) -> None:
        if not self._watched.compiled and self._budget.may_trace(self._step):
            self._sample = Sample(self._watched.whole, list(self._watched.models.values()))

    def _receive(self, *, wait: bool = False) -> None:
        for (step, seconds, told, is_bad), values in self._ferry.arrived(wait=wait):
            scalars = values[: len(Scalar)]
            series = np.array(values[len(Scalar) :], np.float32).reshape(len(Series), -1)
            loss, gradients = scalars[0], series[list(Series).index(Series.GRADIENT_NORM)]
            bad = is_bad or (told and (not math.isfinite(loss) or bool(np.isinf(gradients).any())))
            self._writer.append(step, seconds, scalars, series, nonfinite=bad)
            if self._feed:
                self._feed.step(step, self._watched.names, scalars, series)

    def _keep(self, trace: Trace) -> None:
        self._traces.append(trace)
        if len(self._traces) > MOST_TRACES:
            del self._traces[1]
        self._writer.trace(self._step, trace)
        self._writer.event(RunEvent(self._step, EventKind.SAMPLE))
        self._feed.trace(self._step, trace)

    def _explain(self, loss: Tensor) -> None:
        """The first time: where was it born? From then on it is only counted."""
        self._is_bad = True
        if self._nonfinite is None:
            for flight in self._flights:
                self._nonfinite, trace = flight.explain(loss, self._step)
                if trace is not None:
                    self._keep(trace)
            message = self._nonfinite.message if self._nonfinite is not None else "the loss or a gradient is not finite"
            self._writer.event(RunEvent(self._step, EventKind.NONFINITE, message))
            self._writer.flush()
        if self._on_nonfinite == "stop":
            raise NonfiniteError(self._nonfinite.message if self._nonfinite is not None else "the loss is not finite")

    def _judged(self) -> tuple[Finding, ...]:
        found = judge_run(self.run)
        if self._nonfinite is not None:
            over_time = [f for f in found if f.symptom is Symptom.NONFINITE]
            found = [f for f in found if f not in over_time]
            fast = any(f.cause is Cause.LEARNING_RATE for f in over_time)
            ran_away = fast and self._nonfinite.cause in (Cause.LARGE_WEIGHTS, Cause.UNSAFE_OP)  # step by step
            found.insert(0, replace(self._nonfinite, cause=Cause.LEARNING_RATE) if ran_away else self._nonfinite)
        if self._traces and self._nonfinite is None:
            found += judge(Exhibit(traces=(self._traces[-1],), optimizers=self._header.optimizers)).findings
        return rank(found)

    def _detach(self) -> None:
        if self._boundaries is not None:
            self._boundaries.remove()
        if self._sample is not None:
            self._sample.close()
            self._sample = None
        for flight in self._flights:
            flight.close()

    def _warn(self, sentence: str) -> None:
        warnings.warn(f"gradtrace: {sentence}", RuntimeWarning, stacklevel=2)


class Guarded:
    """Hands on what hooks tell; what is raised there ends the watch and not the training."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._watch, name)

        def guarded(*args: Any) -> None:
            try:
                method(*args)
            except NonfiniteError:
                raise
            except Exception as error:
                self._watch.fail(error)

        return guarded


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
