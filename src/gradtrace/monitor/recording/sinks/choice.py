"""Which sink does a text on the command line, or an object in ``watch(sinks=[...])``, mean?

    tensorboard[:FOLDER]   wandb[:PROJECT]   mlflow[:URI]   trackio[:PROJECT]

An object is known by its methods: a ``SummaryWriter`` by ``add_scalar``, a W&B run by ``define_metric``; a function is
called with the step and the numbers.
"""

from __future__ import annotations

import contextlib
import importlib.util
import random
import sys
from typing import TYPE_CHECKING, Any

from gradtrace.errors import InputError
from gradtrace.monitor.recording.sinks.mlflow import MlflowSink
from gradtrace.monitor.recording.sinks.sink import Sink
from gradtrace.monitor.recording.sinks.tensorboard import TensorBoardSink
from gradtrace.monitor.recording.sinks.trackio import TrackioSink
from gradtrace.monitor.recording.sinks.wandb import WandbSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

KINDS = ("tensorboard", "wandb", "mlflow", "trackio")
_EXPECTED = f"a sink is one of {', '.join(KINDS)}, with :PLACE after it if need be"


class FunctionSink(Sink):
    """Any function of (step, numbers by name)."""

    def __init__(self, function: Callable[[int, Mapping[str, float]], object]) -> None:
        self._function = function

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One call."""
        self._function(step, values)


def check_sink(text: str) -> None:
    """Raise `InputError` if `text` names no sink or one whose package is missing; imports nothing."""
    kind = text.partition(":")[0]
    if kind not in KINDS:
        raise InputError(f"{_EXPECTED}, not {text!r}")
    if importlib.util.find_spec(kind) is None:
        raise InputError(f"the sink {kind} needs a package that is not installed: pip install {kind}")


def as_sink(given: Any, name: str = "gradtrace") -> Sink:
    """A sink for `given`: a text, a tracker's own object, a function, or something that is a sink already.

    Args:
        given: What the user gave.
        name: What a run that has to be opened is called.

    Raises:
        InputError: It is none of these, or the tracker is not installed.
    """
    if isinstance(given, str):
        check_sink(given)
        with _unnoticed():
            return _open(given, name)
    if all(callable(getattr(given, method, None)) for method in ("scalars", "histogram", "text", "close")):
        return given  # type: ignore[no-any-return]
    if hasattr(given, "add_scalar"):
        return TensorBoardSink(given)
    if hasattr(given, "define_metric"):
        return WandbSink(given)
    if callable(given):
        return FunctionSink(given)
    raise InputError(f"{_EXPECTED}, or a SummaryWriter, a W&B run or a function, not {type(given).__name__}")


def _open(text: str, name: str) -> Sink:
    kind, _, place = text.partition(":")
    if kind == "tensorboard":
        return TensorBoardSink.open(place or f"runs/{name}")
    if kind == "wandb":
        return WandbSink.open(place or "gradtrace", name)
    if kind == "mlflow":
        return MlflowSink.open(place or None, name)
    return TrackioSink.open(place or "gradtrace", name)


@contextlib.contextmanager
def _unnoticed() -> Iterator[None]:
    """Trackers greet on stdout, and draw random numbers for their names: neither may show in the script."""
    import numpy as np

    python, numpy = random.getstate(), np.random.get_state()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
