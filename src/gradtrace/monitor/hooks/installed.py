"""All hooks of one training: in together or not at all, and silent together while it is at rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from gradtrace.monitor.hooks.backward_passes import BackwardPasses
from gradtrace.monitor.hooks.called import Called
from gradtrace.monitor.hooks.optimizer_steps import OptimizerSteps
from gradtrace.monitor.hooks.pipeline_stages import PipelineStages
from gradtrace.monitor.hooks.scalers import Scalers

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer

    from gradtrace.monitor.hooks.guard import Guard
    from gradtrace.monitor.hooks.listener import PassListener, StepListener
    from gradtrace.monitor.watched import Watched

Hook: TypeAlias = "BackwardPasses | OptimizerSteps | PipelineStages | Scalers"


class Hooks:
    """They tell `passes` and `steps` from `install` to `remove`, which is idempotent."""

    def __init__(self, watched: Watched, passes: PassListener, steps: StepListener, guard: Guard) -> None:
        self._passes, self._steps, self._guard = passes, steps, guard
        self.called = Called(watched, passes, guard)
        self._backward_passes: BackwardPasses | None = None
        self._optimizer_steps: OptimizerSteps | None = None
        self._scalers: Scalers | None = None
        self._stages: PipelineStages | None = None

    def install(self) -> None:
        """All of them; what raises on the way leaves none behind."""
        try:
            self.called.look()
            self._stages = PipelineStages(self._passes, self._guard)
            self._backward_passes = BackwardPasses(self._passes, self._guard, self._stages.look)
            self._optimizer_steps = OptimizerSteps(self._steps, self._guard)
            self._scalers = Scalers(self._steps, self._guard)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Take them away; within an optimizer's step not all can go: remove those of `installed` again."""
        self.called.look_away()
        for hook in self.installed:
            hook.remove()

    @property
    def installed(self) -> list[Hook]:
        """As far as they have come; what is removed holds nothing of the training."""
        hooks = self._backward_passes, self._optimizer_steps, self._scalers, self._stages
        return [hook for hook in hooks if hook is not None]

    def rest(self, note_step: Callable[[Optimizer], None], note_pass: Callable[[], None] | None) -> None:
        """Until `wake`, tell of nothing but that a step is over, and of backward passes where somebody notes them."""
        if self._backward_passes is not None and self._optimizer_steps is not None:
            self.called.rest()
            self._backward_passes.rest(note_pass)
            self._optimizer_steps.rest(note_step)

    def wake(self) -> None:
        """Tell of everything again."""
        if self._backward_passes is not None and self._optimizer_steps is not None:
            self._backward_passes.wake()
            self._optimizer_steps.wake()
            self.called.look()
