"""Which backward pass is it? Is it the training's own, and is it the last one before an optimizer's step?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.monitor.schedule.jumps import Jumps
from gradtrace.monitor.statistics.gradients import Passes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torch.optim import Optimizer

    from gradtrace.monitor.loss_scale import LossScale
    from gradtrace.monitor.nonfinite.forward_calls import Calls
    from gradtrace.monitor.step import Rows
    from gradtrace.monitor.watched import Watched


class PassCount:
    """The backward passes of a training, counted from one optimizer's step to the next.

    Of those that an optimizer's closure makes the first counts: that of the weights before the step.
    """

    def __init__(self, watched: Watched, rows: Rows, calls: Calls, loss_scale: LossScale) -> None:
        self._watched, self._rows, self._calls, self._loss_scale = watched, rows, calls, loss_scale
        self.numbers = Passes(watched)
        """Of those since the last optimizer's step."""
        self.scale: Tensor | None = None
        """What the loss at hand was multiplied by; None: it was not."""
        self.is_running = False
        """Whether one is under way."""
        self.has_jumped = False
        """Whether the loss of any has, since somebody put this back."""
        self.is_last = True
        """Whether an optimizer is likely to step next: its gradients are whole."""
        self.closure_of: Optimizer | None = None
        """The optimizer whose closure is running."""
        self._num_in_closure = 0
        self._usual: dict[int, int] = {}
        """Passes before the first, second, ... optimizer's step of a row, the last time."""
        self._arrivals: list[tuple[int, int]] | None = None
        """What it would change if it is the training's, where that is not known before."""
        self._num_calls = 0
        """Of what is watched, before the latest pass."""
        self._jumps = Jumps()

    @property
    def is_first(self) -> bool:
        """Whether there was none since the last optimizer's step."""
        return self.numbers.is_taken or not self.numbers.num

    @property
    def is_known(self) -> bool:
        """Whether the pass at hand is the training's for sure, as what is watched was called before it."""
        return self._arrivals is None

    @property
    def is_current(self) -> bool:
        """Whether the gradients are those that were counted: a closure of several passes leaves the last one's."""
        return self._num_in_closure <= 1

    def begin(self) -> None:
        """A backward pass."""
        self.is_running = True
        is_called = self._calls.num_calls != self._num_calls
        self._arrivals = None if is_called else self._watched.arrivals()

    def count(self, roots: Sequence[Tensor], loss: float | None) -> bool:
        """It is the training's, of a `loss` that may be known; whether that has jumped."""
        self._rows.backward()
        self.scale = self._loss_scale.of_loss
        self._loss_scale.backward()
        if self.numbers.is_taken:
            self.begin_block()
        if self.closure_of is not None:
            self._num_in_closure += 1
            self.is_last = self._num_in_closure == 1
            if not self.is_last:
                return False
        self.numbers.add(roots, loss, self.scale)
        if self.closure_of is None:  # as many as the last time
            place = 0 if self._rows.is_complete else len(self._rows.members)
            self.is_last = self.numbers.num >= self._usual.get(place, 1)
        has_jumped = self._jumps.is_one(loss)
        self.has_jumped |= has_jumped
        return has_jumped

    def end(self) -> bool:
        """It is over; whether it brought what is watched anything."""
        self.is_running = False
        is_ours = self.is_known or self._arrivals != self._watched.arrivals()
        if is_ours:
            self._num_calls = self._calls.num_calls
        return is_ours

    def fail(self) -> None:
        """It raised."""
        self.is_running = False
        if self.is_known:
            self.numbers.take_back()

    # ---------------------------------------------------------------------------------------------- optimizers' steps

    def begin_block(self) -> None:
        """What comes now is another optimizer's."""
        self.numbers = Passes(self._watched)

    def begin_closure(self, optimizer: Optimizer | None) -> None:
        """An optimizer steps, with a closure or without (None): the closure of the last one may have raised."""
        self.closure_of, self._num_in_closure = optimizer, 0

    def end_closure(self) -> None:
        """The optimizer's step is over."""
        self.begin_closure(None)

    def learn(self) -> None:
        """An optimizer steps: so many came before it."""
        if self.numbers.num and not self.numbers.is_taken:
            self._usual[len(self._rows.members) - 1] = self.numbers.num
