"""Lightning Fabric: `GradTraceCallback`.

    callback = GradTraceCallback(path="run.db")
    fabric = Fabric(callbacks=[callback], loggers=[...])
    model, optimizer = fabric.setup(model, optimizer)       watched from here on
    ...
    callback.close()

Of ``fabric.setup_module`` Fabric tells no callback: say ``callback.attach(fabric, model)`` when the optimizer is there.
Numbers go to Fabric's loggers after each optimizer step; findings are printed by Fabric, in its main process. The loop
is yours: with ``stop_on="nonfinite"`` ask `must_stop` after a step.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from gradtrace.integrations.follower import Follower
from gradtrace.runs.writer import warn

if TYPE_CHECKING:
    from torch import nn
    from typing_extensions import Self

    from gradtrace.monitor.watch import Watch


class GradTraceCallback:
    """Watches every module that is set up, and whatever optimizer holds its parameters.

    Args:
        stop_on: 'nonfinite' leaves a step with a NaN or Inf out and says so by `must_stop`.
        options: those of `gradtrace.watch`.
    """

    def __init__(self, *, stop_on: str | None = None, **options: Any) -> None:
        self._follower = Follower(stop_on, options)
        self._fabric: Any = None
        self._num_models = 0
        self._has_warned = False

    @property
    def watch(self) -> Watch | None:
        """Its `diagnosis`, `run` and `report`."""
        return self._follower.watch

    @property
    def must_stop(self) -> bool:
        """Whether a NaN or Inf has come, and `stop_on` was to see it."""
        return self._follower.must_stop

    def attach(self, fabric: Any, *modules: Any) -> Self:
        """Watch what ``fabric.setup_module`` has set up; the optimizers are there by now."""
        for module in modules:
            self.on_after_setup(fabric, module)
        return self

    def on_after_setup(self, fabric: Any, module: Any) -> None:
        """The first module begins the watch, the others join it."""
        module = getattr(module, "module", module)
        if self._fabric is None:
            self._fabric, self._num_models = fabric, 1
            self._follower.begin(module, optimizers_of(module), tell=fabric.print, is_main=fabric.is_global_zero)
        elif self.watch is not None:
            self.watch.join({str(self._num_models): module}, optimizers_of(module))
            self._num_models += 1

    def on_after_optimizer_step(self, strategy: Any = None, optimizer: Any = None) -> None:
        """The numbers that have arrived go to the loggers."""
        if self.watch is None and not self._has_warned:
            self._has_warned = True
            warn(
                "nothing is watched: of setup_module Fabric tells no callback; say callback.attach(fabric, model) once"
            )
        self._log()

    def close(self, *, finished: bool = True) -> None:
        """The loop is over."""
        self._follower.end(finished=finished)
        self._log()
        self._fabric = None

    def _log(self) -> None:
        for step, values in self._follower.arrived() if self._fabric is not None else ():
            self._fabric.log_dict(values, step=step)


def optimizers_of(module: nn.Module) -> list[Optimizer]:
    """Those that hold any of its parameters; Fabric does not say which it was given beside the module.

    Without them a first step of several optimizers would count as one of the first alone. Those of Fabric that wrap
    these have no groups of their own and are left out.
    """
    mine = {id(parameter) for parameter in module.parameters()}
    living = [one for one in gc.get_objects() if issubclass(type(one), Optimizer)]
    return [one for one in living if "param_groups" in vars(one) and mine & _held(one)]


def _held(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
