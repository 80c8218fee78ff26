"""MLflow: metrics in batches through its client, which leaves the script's active run alone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from gradtrace.monitor.recording.sinks.sink import Sink

if TYPE_CHECKING:
    from collections.abc import Mapping

_BATCH = 1000
"""Metrics that one request may hold: the limit of MLflow's REST interface."""


class MlflowSink(Sink):
    """Logs to one run of a tracking server, folder or database; it keeps no histograms."""

    def __init__(self, client: Any, run_id: str, *, owned: bool = False) -> None:
        self._client, self._run_id, self._owned = client, run_id, owned
        self._waiting: list[Any] = []

    @classmethod
    def open(cls, uri: str | None, name: str) -> MlflowSink:
        """A run of our own in the experiment 'gradtrace', where `uri` (or ``MLFLOW_TRACKING_URI``) points."""
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name("gradtrace")
        identity = client.create_experiment("gradtrace") if experiment is None else experiment.experiment_id
        return cls(client, client.create_run(identity, run_name=name).info.run_id, owned=True)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Kept until a batch is full."""
        from mlflow.entities import Metric

        now_ms = int(1000 * time.time())
        self._waiting += [Metric(name, value, now_ms, step) for name, value in values.items()]
        if len(self._waiting) >= _BATCH:
            self._flush()

    def text(self, step: int, name: str, text: str) -> None:
        """As a tag of the run."""
        self._client.set_tag(self._run_id, name, f"step {step}: {text}")

    def close(self) -> None:
        """Send the last batch, and end the run if it is ours."""
        self._flush()
        if self._owned:
            self._client.set_terminated(self._run_id)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), _BATCH):
            self._client.log_batch(self._run_id, metrics=waiting[start : start + _BATCH])
