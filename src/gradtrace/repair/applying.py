"""How does a change come into a network? In place on a twin, or into new objects for whoever asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradtrace.errors import InputError
from gradtrace.measure.untouched import fixed_random_state, untouched
from gradtrace.repair.changes.table import KINDS
from gradtrace.repair.twin import RefusalError, make_twin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.optim import Optimizer

    from gradtrace.records.change import Change
    from gradtrace.records.repair import Trial
    from gradtrace.repair.twin import Twin


def apply_changes(changes: Sequence[Change], twin: Twin) -> None:
    """Every change, in order, in place on the twin; raises `RefusalError`."""
    for change in changes:
        try:
            with fixed_random_state():
                KINDS[change.kind].apply(change, twin)
        except InputError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RefusalError(f"{change.title} It does not fit here: {type(error).__name__}: {error}") from error


def changed(
    changes: Sequence[Change], model: Any, loss_fn: Any, optimizer: Any, *, seed: int = 0
) -> tuple[Any, Any, Any]:
    """(model, loss_fn, optimizer) with the changes in; several optimizers stay a list, None stays None."""
    several = isinstance(optimizer, list | tuple)
    given: list[Optimizer] = list(optimizer) if several else [optimizer] if optimizer is not None else []
    with untouched(model):
        twin = make_twin(model, loss_fn, given, seed)
        apply_changes(changes, twin)
    out: Any = twin.optimizers if several else next(iter(twin.optimizers), None)
    return twin.model, twin.training_loss_fn, out


def applied(trial: Trial, model: Any, loss_fn: Any, optimizer: Any, *, seed: int = 0) -> tuple[Any, Any, Any]:
    """(model, loss_fn, optimizer) with what the trial changed in."""
    return changed(trial.changes, model, loss_fn, optimizer, seed=seed)
