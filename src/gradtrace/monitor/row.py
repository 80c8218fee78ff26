"""The row at hand: which optimizers have stepped in it, and its numbers until they set off."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from gradtrace.monitor.statistics.gradients import Numbers
from gradtrace.monitor.statistics.updates import Updates
from gradtrace.monitor.step import Begins, Rows
from gradtrace.records.run import EventKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.monitor.loss_scale import LossScale
    from gradtrace.monitor.recording.delivery import Delivery
    from gradtrace.monitor.recording.recording import Recording
    from gradtrace.monitor.watched import Watched

MOST_CRITIC_STEPS = 64
"""[rows] A critic that takes more steps to one of the generator is taken for a phase of its own."""


class OpenRow:
    """Of one run; one row after the other, each of one or more blocks (`monitor.step`)."""

    def __init__(
        self, watched: Watched, recording: Recording, delivery: Delivery, loss_scale: LossScale, num_optimizers: int
    ) -> None:
        self._watched, self._recording, self._delivery, self._loss_scale = watched, recording, delivery, loss_scale
        self.count = Rows(num_optimizers)
        self.is_ended = True
        """Whether all have stepped that usually do; more may still join."""
        self.is_measured = True
        """Whether norms are taken of what comes to it."""
        self.explained: int | None = None
        """The row that the passes at hand were taken for, where a NaN among them was told of."""
        self._updates = Updates(watched)
        self._blocks: list[Numbers] = []
        """The latest last."""
        self._is_left_out = self._is_partial = False
        self._nums = deque[int](maxlen=MOST_CRITIC_STEPS)
        """Blocks of the latest rows."""

    @property
    def num_blocks(self) -> int:
        """Of the latest rows the most: optimizers that step after passes of their own, as a GAN's two."""
        return max(self._nums, default=1)

    @property
    def number(self) -> int:
        """Of the row at hand, in the run's own count."""
        return self._recording.first_step + self.count.number

    @property
    def expected(self) -> int:
        """Of the row that what happens now belongs to, as far as anybody can know."""
        return self._recording.first_step + (self.count.expected if self.is_ended else self.count.number)

    @property
    def numbers(self) -> Numbers:
        """Of the block at hand."""
        return self._blocks[-1]

    @property
    def is_holding_weights(self) -> bool:
        """Whether copies of weights wait for an optimizer."""
        return self._updates.is_holding

    def step(self, key: int) -> bool:
        """The optimizer `key` steps; whether that cut the row before it short, as it was not what rows usually are."""
        begins = self.count.step(key)
        if begins is not Begins.NOTHING:
            num = len(self._blocks) - (begins is Begins.ROW_OF_BLOCK)
            self._send(self._blocks[:num], self.number - 1)
            del self._blocks[:num]
        if not self._blocks or self.count.is_block_new:
            self._blocks.append(Numbers(self._watched, self._updates))
        self.numbers.is_partial |= self._is_partial
        self._is_partial = False
        is_cut_short = begins is not Begins.NOTHING and not self.is_ended
        if self.explained is not None and self.explained != self.number:
            self._recording.judging.belongs_to(self.number, self.explained)
        self.explained, self.is_ended = None, False
        return is_cut_short

    def lacks_a_pass(self) -> None:
        """Which the step at hand comes of: the loss of all passes is not known."""
        self._is_partial = True

    def leave_out(self) -> None:
        """A scaler does not let an optimizer step."""
        self._recording.event(self.number, EventKind.SKIPPED, "the loss scaler left the step out: overflow")
        self._is_left_out = True

    def compare_weights(self) -> None:
        """With the copies of before the step, where there are any."""
        for numbers in self._blocks:
            if numbers.holds_weights:
                numbers.compare_weights()

    def close(self) -> None:
        """Whatever steps next begins a row."""
        if self.count.members:
            self._send(self._blocks, self.number)
            self._blocks.clear()
            self.count.close()

    def _send(self, blocks: Sequence[Numbers], step: int) -> None:
        """The numbers of a row set off."""
        if not blocks:
            return
        self._nums.append(len(blocks))
        # a scaler that finds its scale is healthy
        counts = not self._is_left_out and (any(b.has_loss for b in blocks) or not self._loss_scale.has_scaler)
        self._delivery.send(step, blocks, counts=counts)
        self._is_left_out = False
