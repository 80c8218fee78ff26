"""What does this rank have to say of a step? Its shards, its own gradient, and how long it took to its loss."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.distributed.report.given import Given
from gradtrace.monitor.ranks.data_parallel import DataParallel
from gradtrace.monitor.ranks.local_gradients import LocalGradients
from gradtrace.monitor.ranks.local_shards import LocalShards
from gradtrace.monitor.statistics.gradients import total

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from gradtrace.monitor.ranks.global_row import Row
    from gradtrace.monitor.watched import Watched
    from gradtrace.records.trace import Trace


class OwnPart:
    """Listened to from the beginning of a step to its optimizer."""

    def __init__(self, watched: Watched) -> None:
        self._watched, data_parallel = watched, DataParallel(watched)
        self.shards = LocalShards(watched, data_parallel)
        self._gradients = LocalGradients(data_parallel)
        self._begun = time.perf_counter()
        self._forward_s = math.nan

    def step_begins(self, *, listens: bool) -> None:
        """The optimizer is through with the last one."""
        self._begun, self._forward_s = time.perf_counter(), math.nan
        if listens:
            self._gradients.listen()

    def loss_is_there(self) -> None:
        """The backward pass begins: until now nobody else was waited for, as a rule."""
        if math.isnan(self._forward_s):
            self._forward_s = time.perf_counter() - self._begun

    def gradients_are_there(self, scale: Tensor | None) -> Tensor | None:
        """As the optimizer will see them; norms of this rank's own, if they were averaged with others'."""
        self.shards.look_at_gradients()
        self._gradients.stop()
        return self._gradients.norms(scale)

    @property
    def layers(self) -> tuple[int, ...]:
        """Columns of the parameters of whose gradients this rank's own norms are told one by one."""
        places = {id(parameter): column for column, parameter in enumerate(self._watched.parameters)}
        found = tuple(places.get(id(parameter), -1) for parameter in self._gradients.hooked)
        return () if -1 in found else found

    def stop(self) -> None:
        """Listen no longer."""
        self._gradients.stop()

    def given(self, row: Row, trace: Trace | None) -> Given:
        """Of a step whose numbers are on the host, for the report."""
        loss, *vectors = row.arrived
        known = (vector if isinstance(vector, np.ndarray) else None for vector in vectors)
        gradients, clipped, weights, moved, _, sums, local, entries = known
        return Given(
            float(loss.sum(dtype=np.float64)) if isinstance(loss, np.ndarray) else loss,
            gradients,
            clipped,
            weights,
            moved,
            sums,
            is_bad=row.bad,
            forward_s=self._forward_s,
            local=self._local_norm(gradients, local),
            of_gradients=self.shards.of_gradients,
            of_weights=self.shards.of_weights,
            layers=None if local is None else local[1:],
            entries=entries,
            trace=trace,
        )

    def _local_norm(self, gradients: NDArray[np.float32] | None, local: NDArray[np.float32] | None) -> float:
        """Of this rank's own gradient; NaN where only what is shared is known."""
        if local is not None:
            return float(local[0])
        is_shared = self._gradients.is_averaged_within or self.shards.holds_parts
        whole = None if is_shared else total(gradients)
        return math.nan if whole is None else whole
