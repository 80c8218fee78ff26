"""Lightning: `GradTraceCallback`, for Trainers of lightning and of pytorch_lightning.

    trainer = Trainer(callbacks=[GradTraceCallback(path="run.db")])

Findings go to the progress bar, or to Lightning's own logger where there is none; numbers to the Trainer's loggers at
the step that `self.log` uses.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from gradtrace.integrations.follower import Follower
from gradtrace.integrations.needed import needed

with needed("Lightning", "lightning"):
    try:
        from lightning.pytorch import Callback
    except ModuleNotFoundError:
        from pytorch_lightning import Callback

if TYPE_CHECKING:
    from gradtrace.monitor.watch import Watch

_logger = logging.getLogger("lightning.pytorch.gradtrace")


class GradTraceCallback(Callback):  # type: ignore[misc]
    """Watches every fit: accumulation, clipping, mixed precision, manual optimization and resuming as they come.

    Args:
        stop_on: 'nonfinite' stops the Trainer (``should_stop``) at the first NaN or Inf; its step is left out.
        options: those of `gradtrace.watch`.
    """

    def __init__(self, *, stop_on: str | None = None, **options: Any) -> None:
        super().__init__()
        self._follower = Follower(stop_on, options)
        self._begins = False
        """With the batch that comes next."""

    @property
    def watch(self) -> Watch | None:
        """Of the latest fit: its `diagnosis`, `run` and `report`."""
        return self._follower.watch

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The sanity check is over."""
        self._begins = True

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_rest: Any) -> None:
        """By the first one Lightning has counted the batch that a checkpoint was written in, if it was."""
        if not self._begins:
            return
        self._begins = False
        at = trainer.fit_loop.epoch_loop._batches_that_stepped  # what its loggers call the step
        self._follower.begin(
            pl_module,
            trainer.optimizers,
            tell=lambda sentence: _tell(trainer, sentence),
            at=at,
            is_main=trainer.is_global_zero,
        )

    def on_train_batch_end(self, trainer: Any, *_rest: Any) -> None:
        """Before any checkpoint: Lightning calls those who write them last."""
        self._log(trainer)
        if self._follower.stops and trainer.strategy.reduce_boolean_decision(self._follower.must_stop, all=False):
            trainer.should_stop = True

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """The fit is over, or was stopped."""
        self._end(trainer, finished=True)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """It raised, or was interrupted."""
        self._end(trainer, finished=False, error=exception)

    def _end(self, trainer: Any, *, finished: bool, error: BaseException | None = None) -> None:
        self._follower.end(finished=finished, error=error)
        self._log(trainer)

    def _log(self, trainer: Any) -> None:
        for step, values in self._follower.arrived():
            for logger in trainer.loggers:
                logger.log_metrics(values, step=step)


def _tell(trainer: Any, sentence: str) -> None:
    bar = trainer.progress_bar_callback
    if bar is not None and bar.is_enabled:
        bar.print(sentence)
    else:
        _logger.warning(sentence)
    for logger in trainer.loggers:
        add_text = getattr(logger.experiment, "add_text", None)  # TensorBoard's
        if add_text is not None:
            add_text("gradtrace", sentence, trainer.fit_loop.epoch_loop._batches_that_stepped)
