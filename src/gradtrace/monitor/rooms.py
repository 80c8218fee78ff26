"""The rooms that one training is followed through, made in the order in which they need each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.monitor.astray import Astray
from gradtrace.monitor.loss_scale import LossScale
from gradtrace.monitor.nonfinite.detector import Detector
from gradtrace.monitor.nonfinite.forward_calls import Calls
from gradtrace.monitor.owner import Owner
from gradtrace.monitor.pass_count import PassCount
from gradtrace.monitor.recording.delivery import Delivery
from gradtrace.monitor.rest import Rest
from gradtrace.monitor.row import OpenRow
from gradtrace.monitor.strangers import Strangers
from gradtrace.monitor.traces.sampler import Sampler
from gradtrace.monitor.uncleared import Uncleared
from gradtrace.monitor.watched import NamesOthers

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer

    from gradtrace.monitor.ranks.ranks import Ranks
    from gradtrace.monitor.recording.recording import Recording
    from gradtrace.monitor.schedule.schedule import Schedule
    from gradtrace.monitor.watched import Watched


class Rooms:
    """Of one training; `ranks`: the other processes, if any.

    `newcomer` is asked about an optimizer that nobody knows, of which `num_others` may still come; `woken` is called at
    the end of a rest.
    """

    def __init__(
        self,
        watched: Watched,
        recording: Recording,
        schedule: Schedule,
        ranks: Ranks | None,
        *,
        on_nonfinite: str,
        num_others: int,
        newcomer: Callable[[Optimizer], bool],
        woken: Callable[[], None],
    ) -> None:
        self.watched, self.recording, self.schedule, self.ranks = watched, recording, schedule, ranks
        self._newcomer = newcomer
        self.owner = Owner(watched, self._joins)
        self.loss_scale = LossScale()
        self.delivery = Delivery(recording, ranks)
        self.row = OpenRow(watched, recording, self.delivery, self.loss_scale, len(watched.optimizers) + num_others)
        self.calls = Calls(watched.whole if isinstance(watched.whole, NamesOthers) else None)
        self.passes = PassCount(watched, self.row.count, self.calls, self.loss_scale)
        self.detector = Detector(watched, recording, self.calls, on_nonfinite)
        self.sampler = Sampler(watched, recording, schedule)
        self.uncleared = Uncleared(watched, recording)
        self.strangers = Strangers(watched)
        self.astray = Astray(watched, recording)
        self.rest = Rest(self.row.count, schedule, self.owner, self.detector, woken)

    @property
    def step(self) -> int:
        """The number of the row that what happens now belongs to, as far as anybody can know."""
        self.rest.catch_up()
        return self.row.expected

    def forget(self) -> None:
        """Nothing of any pass is held any longer."""
        self.sampler.abandon()
        self.calls.forget()
        self.detector.forget()

    def _joins(self, optimizer: Optimizer) -> bool:
        is_ours = self._newcomer(optimizer)
        if is_ours:
            self.row.count.backward()  # its passes were nobody's
        return is_ours
