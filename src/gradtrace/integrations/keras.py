"""Keras 3 on torch: `GradTraceCallback`.

    model.fit(x, y, callbacks=[GradTraceCallback(path="run.db")])

Keras moves weights by itself and torch's optimizers never step, so that the end of a batch is the end of a step.
Numbers join the logs of the batch and, the latest, of the epoch, from where the progress bar, the history and Keras'
loggers take them; findings are printed as Keras prints. No event tells of an exception: it is seen where ``fit`` raises
it.
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Any

from gradtrace.errors import InputError
from gradtrace.integrations.follower import Follower
from gradtrace.integrations.needed import needed
from gradtrace.integrations.raising import Raises

with needed("Keras", "keras"):
    import keras

if TYPE_CHECKING:
    from gradtrace.monitor.watch import Watch


class GradTraceCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Watches every fit.

    Args:
        stop_on: 'nonfinite' stops the fit (``model.stop_training``) at the first NaN or Inf; its gradients count zero.
        options: those of `gradtrace.watch`.

    Raises:
        InputError: Keras runs on another backend.
    """

    def __init__(self, *, stop_on: str | None = None, **options: Any) -> None:
        super().__init__()
        if keras.backend.backend() != "torch":
            raise InputError(f"Keras must run on torch (KERAS_BACKEND=torch), but it runs on {keras.backend.backend()}")
        fits = next(kind for kind in keras.Model.__mro__ if "fit" in vars(kind))
        self._follower = Follower(stop_on, options, Raises(fits, "fit", _followers))
        self._latest: dict[str, float] = {}
        _CALLBACKS.add(self)

    @property
    def watch(self) -> Watch | None:
        """Of the latest fit: its `diagnosis`, `run` and `report`."""
        return self._follower.watch

    def close(self) -> None:
        """End the watch now, as of a model that trains in a method of its own and raised."""
        self._follower.end(finished=False)

    def on_train_begin(self, logs: Any = None) -> None:
        """The model is built by now: Keras does that before."""
        layers = {layer.path: layer for layer in self.model._flatten_layers(include_self=False) if layer.weights}
        at = int(self.model.optimizer.iterations)
        self._follower.begin(layers, (), tell=self._tell, at=at)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """The weights have moved, and the gradients are still there."""
        if self.watch is not None:
            self.watch.step()
        for _step, values in self._follower.arrived():
            self._latest |= values
        if logs is not None:
            logs |= self._latest
        if self._follower.must_stop:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Before those that log: Keras calls its own last."""
        self._latest |= self._follower.latest()
        if logs is not None:
            logs |= self._latest

    def on_train_end(self, logs: Any = None) -> None:
        """The fit is over, or was stopped."""
        self._follower.end(finished=True)

    def _tell(self, sentence: str) -> None:
        if self._follower.must_stop:  # told after the backward pass, before Keras reads the gradients
            self.model.zero_grad(set_to_none=False)
        if keras.config.is_interactive_logging_enabled():
            print(sentence)  # noqa: T201  # as Keras itself does
        else:
            logging.getLogger("absl").warning(sentence)


_CALLBACKS: weakref.WeakSet[GradTraceCallback] = weakref.WeakSet()
"""All there are: a model does not know which it is fitted with."""


def _followers(model: Any) -> list[Follower]:
    return [one._follower for one in list(_CALLBACKS) if one.model is model]
