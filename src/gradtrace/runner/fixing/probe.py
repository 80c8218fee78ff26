"""What can the first run of a script tell? What is wrong, whose the lost decades are, and what could be changed.

All of it is measured on the living training: the tape of its first backward pass is kept for the shares, a copy of the
network as it was before for the changes to look at.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gradtrace.audit.arguments import Arguments
from gradtrace.errors import InputError
from gradtrace.measure.untouched import fixed_random_state
from gradtrace.monitor.hooks.patches import interpose
from gradtrace.repair.before import first_layer_of
from gradtrace.repair.changes import placebo
from gradtrace.repair.changes.table import propose_all
from gradtrace.repair.correction import with_shares
from gradtrace.repair.given import chosen_optimizers
from gradtrace.repair.project import project_files
from gradtrace.repair.shares import shares_on_tape
from gradtrace.repair.situation import Situation
from gradtrace.repair.twin import make_twin
from gradtrace.runner.fixing.exchange import Place, Probed
from gradtrace.runner.fixing.living import no_loss
from gradtrace.runner.fixing.objective import for_a_script
from gradtrace.tape.private import each_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.optim import Optimizer

    from gradtrace.monitor.watch import Watch
    from gradtrace.records.change import Change
    from gradtrace.records.repair import Shares
    from gradtrace.runner.fixing.making import Making

LEFT_OUT = "not tried in a script, for its loss is not proportional to what would be changed (a factory can be asked)"


class Probe:
    """From before the first forward pass of a training to the last step that is looked at."""

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        self._model, self._optimizers = model, tuple(optimizers)
        self._shares: Shares | None = None
        self._called_with: Arguments | None = None
        self._notes: list[str] = []
        self._folder = Path.cwd().resolve()
        self._before: tuple[nn.Module, Sequence[Optimizer]] = model, optimizers
        try:
            twin = make_twin(model, no_loss, list(optimizers), hooks=False)  # these are the watch's
            self._before = twin.model, twin.optimizers
        except InputError as error:
            self._notes.append(str(error))
        self._handle = model.register_forward_pre_hook(self._call, with_kwargs=True)

    def follow(self, watch: Watch) -> None:
        """Behind what the watch does at the first backward pass."""
        self._watch = watch
        self._look_away: Callable[[], None] = interpose(torch.autograd, "backward", self._backward).remove

    def _call(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._called_with is None and torch.is_grad_enabled():
            self._called_with = Arguments(*each_in(_kept, (tuple(args), dict(kwargs))))
            self._handle.remove()

    def _backward(self, own: Callable[..., Any], tensors: Any, *args: Any, **kwargs: Any) -> Any:
        loss = tensors if isinstance(tensors, torch.Tensor) else None
        args, kwargs = (*args[:1], True, *args[2:]), {k: v for k, v in kwargs.items() if k != "retain_graph"}
        if len(args) == 1:
            args, kwargs["retain_graph"] = (), True
        result = own(tensors, *args, **kwargs)
        if self._watch.traces and loss is not None:
            self._look_away()
            try:
                with fixed_random_state():
                    self._shares = shares_on_tape(loss, self._watch.traces[0])
            except (ArithmeticError, InputError, LookupError, RuntimeError, TypeError, ValueError) as error:
                self._notes.append(f"the shares of the causes could not be measured ({type(error).__name__})")
        return result

    def told(self, making: Making | None) -> Probed:
        """After the last step."""
        diagnosis = with_shares(self._watch.diagnosis, self._shares)
        candidates: list[Change] = []
        placebos: list[Change] = []
        first_layer = ""
        model, optimizers = self._before
        if not diagnosis.traces:
            self._notes.append("no step of the script could be traced whole, and without a trace nothing is changed")
        elif not diagnosis.healthy:
            batch = self._called_with.args if self._called_with is not None else ()
            situation = Situation(model, no_loss, [batch], optimizers, diagnosis, None, self._called_with)
            found, notes = propose_all(situation)
            candidates = [kept for change in found if (kept := for_a_script(change, situation)) is not None]
            titles = {change.title for change in candidates}
            self._notes += [f"{LEFT_OUT}: {change.title}" for change in found if change.title not in titles]
            placebos = placebo.KIND.propose(situation)
            first_layer = first_layer_of(situation)
            self._notes += notes
        place: Place | None = making.place(self._model) if making is not None else None
        rates = making.rates if making is not None else None
        return Probed(
            diagnosis,
            self._shares,
            tuple(candidates),
            tuple(placebos),
            tuple(self._notes),
            first_layer,
            chosen_optimizers(list(optimizers), model)[1],
            len(optimizers),
            place,
            self._sets_rate(rates),
            any("initial_lr" in group for group in self._optimizers[0].param_groups),
            tuple(path.relative_to(self._folder).as_posix() for path in project_files(self._folder)),
        )

    def _sets_rate(self, rates: tuple[Any, ...] | None) -> bool:
        """A scheduler of torch leaves a mark in the groups that it schedules."""
        groups = self._optimizers[0].param_groups
        now = tuple(group.get("lr") for group in groups)
        return rates is not None and now != rates and not any("initial_lr" in group for group in groups)


def _kept(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value
