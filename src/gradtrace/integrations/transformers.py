"""Hugging Face transformers: `GradTraceCallback` for its Trainer.

    Trainer(..., callbacks=[GradTraceCallback(path="run.db")])            numbers join the Trainer's log history
    GradTraceCallback(path="run.db").attach(trainer)                      and go to all that it reports to

Findings go to transformers' own logger. No event tells of an exception: it is seen where ``Trainer.train`` raises it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradtrace.integrations.follower import Follower
from gradtrace.integrations.needed import needed
from gradtrace.integrations.raising import Raises

with needed("transformers", "transformers"):
    from transformers import Trainer, TrainerCallback
    from transformers.trainer_callback import DefaultFlowCallback
    from transformers.utils import logging

if TYPE_CHECKING:
    from typing_extensions import Self

    from gradtrace.monitor.watch import Watch

_logger = logging.get_logger("transformers.gradtrace")


class GradTraceCallback(TrainerCallback):  # type: ignore[misc]
    """Watches every training: accumulation, clipping, mixed precision and resuming as they come.

    Args:
        stop_on: 'nonfinite' stops the Trainer (``should_training_stop``) at the first NaN or Inf; its step is left out.
        options: those of `gradtrace.watch`.
    """

    def __init__(self, *, stop_on: str | None = None, **options: Any) -> None:
        self._follower = Follower(stop_on, options, Raises(Trainer, "train", _followers))

    def attach(self, trainer: Any) -> Self:
        """Stand before all that `trainer` reports to, so that they get the numbers with its own."""
        callbacks = trainer.callback_handler.callbacks
        if self in callbacks:
            callbacks.remove(self)
        flow = [i for i, one in enumerate(callbacks) if isinstance(one, DefaultFlowCallback)]
        callbacks.insert(flow[-1] + 1 if flow else 0, self)
        return self

    @property
    def watch(self) -> Watch | None:
        """Of the latest training: its `diagnosis`, `run` and `report`."""
        return self._follower.watch

    def close(self) -> None:
        """End the watch now, as of a Trainer that trains in a method of its own and raised."""
        self._follower.end(finished=False)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_rest: Any
    ) -> None:
        """A checkpoint is loaded by now."""
        self._follower.begin(
            model, optimizer, tell=_logger.warning, at=state.global_step, is_main=state.is_world_process_zero
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_rest: Any) -> None:
        """Those of the training and not of an evaluation take the numbers along."""
        if logs is not None and "loss" in logs and state.is_world_process_zero:
            numbers = self._follower.latest()
            logs |= numbers
            state.log_history[-1] |= numbers

    def on_step_end(self, args: Any, state: Any, control: Any, **_rest: Any) -> Any:
        """Before a checkpoint of this step is written."""
        if self._follower.must_stop:
            control.should_training_stop = True
        return control

    def on_train_end(self, args: Any, state: Any, control: Any, **_rest: Any) -> None:
        """The training is over, or was stopped."""
        self._follower.end(finished=True)


def _followers(trainer: Any) -> list[Follower]:
    return [one._follower for one in trainer.callback_handler.callbacks if isinstance(one, GradTraceCallback)]
