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
from gradtrace.monitor.watched import NamesOthers, unused_name

with needed("Keras", "keras"):
    import keras

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        self._scale: _Scale | None = None
        """Of the loss at hand."""
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
        optimizer = getattr(self.model, "optimizer", None)  # a model with steps of its own may have several
        at = int(optimizer.iterations) if optimizer is not None else 0
        self._follower.begin(Layers(self.model), (), tell=self._tell, at=at, title=self.model.name)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """By what will its loss be multiplied?"""
        optimizer: Any = getattr(self.model, "optimizer", None)
        is_scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        self._scale = _Scale(optimizer) if is_scaled and getattr(optimizer, "built", False) else None
        if self._scale is not None and self.watch is not None:
            self.watch.loss_is_scaled_by(self._scale)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """The weights have moved, and the gradients are still there."""
        if self.watch is not None:
            if self._scale is not None and self._scale.has_fallen:
                self.watch.step_left_out()
            else:
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


class _Scale:
    """What Keras' `LossScaleOptimizer` multiplies a loss by, as torch's GradScaler says it.

    It divides copies of the gradients, and halves its scale where it leaves a step out.
    """

    leaves_gradients = True

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._scale = optimizer.dynamic_scale.value.detach().clone()

    def is_enabled(self) -> bool:
        return True

    @property
    def has_fallen(self) -> bool:
        return bool(self._optimizer.dynamic_scale.value < self._scale)


class Layers(NamesOthers):
    """A Keras model as its layers by the names on the way to them, and its weights by their names in these.

    To torch the weights of a layer lie in a dict of Keras' own inside of it, under their whole paths; and Keras' own
    path of a layer is another in a model that was loaded, and of some layers there is none.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._layers = {path: layer for layer, path in _paths(model, model.name, {}, set()).items()}
        self._weights: dict[str, torch.Tensor] = {}
        owners = {id(weight): path for path, layer in self._layers.items() for weight in layer.trainable_weights}
        for weight in model.trainable_weights:  # of the layers that it is a weight of the innermost comes last
            self._weights[f"{owners[id(weight)]}.{weight.name}"] = weight.value
        frozen = {id(weight) for layer in self._layers.values() for weight in layer._trainable_variables}
        self._moving = [one.value for one in model.non_trainable_variables if id(one) not in frozen]

    def moving(self) -> list[torch.Tensor]:
        """Averages and the seeds of random numbers."""
        return self._moving

    def named_parameters(self, *_how: Any, **_too: Any) -> Iterator[tuple[str, Any]]:
        """``net/dense.kernel``; what is frozen is not among them."""
        yield from self._weights.items()

    def named_modules(self, *_how: Any, **_too: Any) -> Iterator[tuple[str, Any]]:
        """``net/dense``, and the whole under ''."""
        yield "", self
        yield from self._layers.items()

    def get_submodule(self, target: str) -> Any:
        """By its path."""
        path, _, inner = target.partition(".")
        return self._layers[path].get_submodule(inner) if path else self

    def named_children(self) -> Iterator[tuple[str, Any]]:
        """Whose calls are looked at."""
        yield from ((path, layer) for path, layer in self._layers.items() if layer.weights)


def _paths(layer: Any, path: str, found: dict[Any, str], taken: set[str]) -> dict[Any, str]:
    """Of each layer, the one further out first; one in several places has the name of the first."""
    if layer not in found:
        found[layer] = unused_name(path, taken)
        for inner in layer._layers:
            _paths(inner, f"{found[layer]}/{inner.name}", found, taken)
    return found


_CALLBACKS: weakref.WeakSet[GradTraceCallback] = weakref.WeakSet()
"""All there are: a model does not know which it is fitted with."""


def _followers(model: Any) -> list[Follower]:
    return [one._follower for one in list(_CALLBACKS) if one.model is model]
