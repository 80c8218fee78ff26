"""skorch: `GradTrace`, a callback.

    NeuralNetClassifier(..., callbacks=[GradTrace(path="run.db")])

The numbers are in ``net.history``, of each batch and, the latest, of each epoch, from where skorch's own log prints
them; findings are printed by the net's ``verbose``. No event tells of an exception: it is seen where ``partial_fit``,
by which ``fit`` trains, raises it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradtrace.integrations.follower import Follower
from gradtrace.integrations.needed import needed
from gradtrace.integrations.raising import Raises

with needed("skorch", "skorch"):
    from skorch import NeuralNet
    from skorch.callbacks import Callback

if TYPE_CHECKING:
    from gradtrace.monitor.watch import Watch


class GradTrace(Callback):  # type: ignore[misc]
    """Watches every fit and partial fit.

    Args:
        stop_on: 'nonfinite' ends the fit at the first NaN or Inf as skorch's own callbacks do; its step is left out.
        options: those of `gradtrace.watch`.
    """

    def __init__(self, *, stop_on: str | None = None, **options: Any) -> None:
        self._follower = Follower(stop_on, options, Raises(NeuralNet, "partial_fit", _followers))
        self._asked = {"stop_on": stop_on, **options}
        self._latest: dict[str, float] = {}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """What it was made with, for whoever clones the net (a grid search)."""
        return dict(self._asked)

    @property
    def watch(self) -> Watch | None:
        """Of the latest fit: its `diagnosis`, `run` and `report`."""
        return self._follower.watch

    def close(self) -> None:
        """End the watch now, as of a net that trains in a method of its own and raised."""
        self._follower.end(finished=False)

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **_rest: Any) -> None:
        """All modules and optimizers of the net are watched, under its names for them."""
        models = {name: getattr(net, f"{name}_") for name in net._modules}
        optimizers = [getattr(net, f"{name}_") for name in net._optimizers]
        alone = next(iter(models.values())) if len(models) == 1 else models
        self._follower.begin(alone, optimizers, tell=lambda sentence: _tell(net, sentence))

    def on_batch_end(self, net: Any, batch: Any = None, training: bool = False, **_rest: Any) -> None:
        """One of the training."""
        if not training:
            return
        for _step, values in self._follower.arrived():
            self._latest |= values
        for name, value in self._latest.items():
            net.history.record_batch(name, value)
        if self._follower.must_stop:
            raise KeyboardInterrupt  # what skorch's own callbacks stop a fit by

    def on_epoch_end(self, net: Any, **_rest: Any) -> None:
        """Before the log is printed."""
        self._latest |= self._follower.latest()
        for name, value in self._latest.items():
            net.history.record(name, value)

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **_rest: Any) -> None:
        """The fit is over, or was stopped."""
        self._follower.end(finished=True)


def _tell(net: Any, sentence: str) -> None:
    if net.verbose:
        print(sentence)  # noqa: T201  # as skorch itself does


def _followers(net: Any) -> list[Follower]:
    return [one._follower for _, one in getattr(net, "callbacks_", ()) if isinstance(one, GradTrace)]
