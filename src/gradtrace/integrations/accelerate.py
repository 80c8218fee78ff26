"""accelerate: `GradTraceTracker`, a tracker beside the others.

    tracker = GradTraceTracker(path="run.db")
    accelerator = Accelerator(log_with=[tracker, "tensorboard"])
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    accelerator.init_trackers("project")
    tracker.attach(accelerator)                     what was prepared is watched, until accelerator.end_training()

At each ``accelerator.log`` the other trackers get our numbers as well; findings go to accelerate's own logger. With
``stop_on="nonfinite"`` the accelerator's trigger is set: ``if accelerator.check_trigger(): break``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradtrace.integrations.follower import Follower
from gradtrace.integrations.needed import needed
from gradtrace.runs.writer import warn

with needed("accelerate", "accelerate"):
    from accelerate.logging import get_logger
    from accelerate.tracking import GeneralTracker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

    from gradtrace.monitor.watch import Watch


class GradTraceTracker(GeneralTracker):  # type: ignore[misc]
    """Watches whatever an `Accelerator` has prepared: accumulation, clipping, mixed precision, several optimizers.

    Args:
        stop_on: 'nonfinite' sets the accelerator's trigger at the first NaN or Inf; its step is left out.
        options: those of `gradtrace.watch`.
    """

    name = "gradtrace"
    requires_logging_directory = False

    def __init__(self, *, stop_on: str | None = None, **options: Any) -> None:
        super().__init__()
        self._follower = Follower(stop_on, options)
        self._accelerator: Any = None
        self._has_warned = False

    @property
    def tracker(self) -> Watch | None:
        """The watch, as `watch`."""
        return self._follower.watch

    @property
    def watch(self) -> Watch | None:
        """Its `diagnosis`, `run` and `report`."""
        return self._follower.watch

    def attach(self, accelerator: Any, *, at: int = 0) -> Self:
        """Watch what was prepared, from now on; `at`: the step that the loop is at, where it was resumed."""
        models = [accelerator.unwrap_model(model) for model in accelerator._models]
        self._accelerator = accelerator
        self._follower.begin(
            models[0] if len(models) == 1 else models,
            list(accelerator._optimizers),
            tell=self._tell,
            at=at,
            is_main=accelerator.is_main_process,
        )
        return self

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """The configuration is other trackers' business."""

    def log(self, values: Mapping[str, Any], step: int | None = None, **_rest: Any) -> None:
        """The loop logs: the other trackers get our numbers at the same step."""
        if self.watch is None and not self._has_warned:
            self._has_warned = True
            warn("nothing is watched yet: say tracker.attach(accelerator) once, behind accelerator.init_trackers(...)")
        numbers = self._follower.latest()
        for other in self._accelerator.trackers if numbers and self._accelerator is not None else ():
            if other is not self:
                other.log(numbers, step=step)

    def finish(self) -> None:
        """``accelerator.end_training()``."""
        self._follower.end(finished=True)
        self._accelerator = None

    def _tell(self, sentence: str) -> None:
        if self._follower.must_stop:
            self._accelerator.set_trigger()
        get_logger("accelerate.gradtrace").warning(sentence)
