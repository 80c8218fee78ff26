"""PyTorch-Ignite: `GradTrace`, a handler.

    GradTrace(model, optimizer, path="run.db").attach(trainer, progress_bar)

The numbers of the latest step are in ``engine.state.metrics``, from where Ignite's loggers and progress bar take them
by name (``metric_names=["gradtrace/gradient_norm"]``, or ``"all"``); findings go to the engine's logger, or to the bar.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradtrace.integrations.follower import Follower
from gradtrace.integrations.needed import needed

with needed("Ignite", "pytorch-ignite"):
    from ignite.engine import Events

if TYPE_CHECKING:
    from typing_extensions import Self

    from gradtrace.monitor.watch import Watch


class GradTrace:
    """Watches every run of the engine that it is attached to.

    Args:
        models: as `gradtrace.watch` takes them.
        optimizers: likewise.
        stop_on: 'nonfinite' terminates the engine at the first NaN or Inf; its step is left out.
        options: the other options of `gradtrace.watch`.
    """

    def __init__(self, models: Any, optimizers: Any = (), *, stop_on: str | None = None, **options: Any) -> None:
        self._follower = Follower(stop_on, options)
        self._trained = models, optimizers

    @property
    def watch(self) -> Watch | None:
        """Of the latest run: its `diagnosis`, `run` and `report`."""
        return self._follower.watch

    def attach(self, engine: Any, progress_bar: Any = None) -> Self:
        """Watch what `engine` does; attach it before whatever logs and writes checkpoints."""
        engine.add_event_handler(Events.STARTED, self._begin, progress_bar)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iterated)
        engine.add_event_handler(Events.COMPLETED, self._end)
        engine.add_event_handler(Events.TERMINATE, self._end)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._raised)
        return self

    def _begin(self, engine: Any, progress_bar: Any) -> None:
        tell = engine.logger.warning if progress_bar is None else progress_bar.log_message
        self._follower.begin(*self._trained, tell=tell, at=engine.state.iteration)

    def _iterated(self, engine: Any) -> None:
        self._keep_numbers(engine)
        if self._follower.must_stop:
            engine.terminate()

    def _keep_numbers(self, engine: Any) -> None:
        for _step, values in self._follower.arrived():
            engine.state.metrics |= values

    def _end(self, engine: Any) -> None:
        self._follower.end(finished=True)
        self._keep_numbers(engine)  # which were on their way

    def _raised(self, engine: Any, error: BaseException) -> None:
        self._follower.end(finished=False, error=error)
        others = [one for one, *_ in engine._event_handlers[Events.EXCEPTION_RAISED] if one != self._raised]
        if not others:  # an error that is handled is not raised by Ignite: nobody else does
            raise error
