"""Weights & Biases: a run of our own beside the script's, so that its step counter stays its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradtrace.monitor.recording.sinks.sink import PREFIX, Sink

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gradtrace.monitor.recording.sinks.sink import Log2Histogram

_STEP = f"{PREFIX}step"


class WandbSink(Sink):
    """Logs to a ``wandb.Run``; numbers that belong to one step may come in several rows of it."""

    def __init__(self, run: Any, *, owned: bool = False) -> None:
        self._run, self._owned = run, owned
        run.define_metric(_STEP)
        run.define_metric(f"{PREFIX}*", step_metric=_STEP)

    @classmethod
    def open(cls, project: str, name: str) -> WandbSink:
        """A run of our own: online, offline or off as ``WANDB_MODE`` says."""
        import wandb

        # not the script's stdout, nor the machine's load, nor its code: only what we send
        settings = wandb.Settings(console="off", x_disable_stats=True, save_code=False, silent=True)
        run = wandb.init(project=project, name=name, reinit="create_new", settings=settings)
        return cls(run, owned=True)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One row; further numbers of the step come in rows of their own."""
        self._run.log({_STEP: step, **values})

    def histogram(self, step: int, name: str, histogram: Log2Histogram) -> None:
        """One bin per power of two."""
        import numpy as np
        import wandb

        shown = wandb.Histogram(np_histogram=(np.array(histogram.filled), np.array(histogram.edges)))
        self._run.log({_STEP: step, name: shown})

    def text(self, step: int, name: str, text: str) -> None:
        """In the run's summary."""
        self._run.summary[name] = f"step {step}: {text}"

    def close(self) -> None:
        """End the run, if it is ours."""
        if self._owned:
            self._run.finish()
