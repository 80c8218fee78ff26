"""How does a change come into the living network of a script? In place, before the first forward pass of its training.

There is no copy to put it into, so that a change which needs one refuses: where it replaces the model itself. A changed
loss keeps the script's value, as `objective` says, or refuses. A learning rate is changed around every step, whoever
else sets it.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch

from gradtrace.monitor.hooks.patches import interpose
from gradtrace.repair.applying import apply_changes
from gradtrace.repair.autocast import autocast_in_bfloat16
from gradtrace.repair.changes.warmup import factor_at
from gradtrace.repair.rewriting import Rewriting
from gradtrace.repair.twin import RefusalError, Twin
from gradtrace.runner.fixing.objective import OF_THE_LOSS, keep_the_measure, measuring
from gradtrace.tape.private import sink_mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn
    from torch.optim import Optimizer

    from gradtrace.records.change import Change


def change_in_place(
    changes: Sequence[Change], model: nn.Module, optimizers: Sequence[Optimizer], seed: int,
    measured_by: Sequence[Change] = (),
) -> None:  # fmt: skip
    """All of them, in order, and the value of the loss as of `measured_by`; raises `InputError`.

    Until the process ends.
    """
    twin = Twin(model, no_loss, list(optimizers), torch.Generator().manual_seed(seed))
    roots = list(model.children())
    for change in changes:
        if change.kind == "rate":
            _scale_rates(optimizers, _always(change.number("factor")))
        elif change.kind == "warmup":
            _scale_rates(optimizers, factor_at(change))
        else:
            known = len(twin.rules)
            apply_changes([change], twin)
            if change.kind in OF_THE_LOSS:
                keep_the_measure(change, twin, known)
    twin.rules += measuring([change for change in measured_by if change not in changes])
    _refuse_what_needs_a_copy(twin, roots, is_umbrella=type(model) is torch.nn.Module)
    if twin.rules:
        mode = Rewriting(tuple(twin.rules))
        mode.__enter__()  # type: ignore[no-untyped-call]
        sink_mode(mode)
    if twin.is_autocast_wide:
        autocast_in_bfloat16().__enter__()
    if twin.divisor != 1.0:
        _divide_losses(twin.divisor)


def no_loss(_model: Any, _batch: Any) -> Any:
    """A script's loss is its own business."""
    raise RefusalError("the loss of a script cannot be called by itself")


def _refuse_what_needs_a_copy(twin: Twin, roots: list[nn.Module], *, is_umbrella: bool) -> None:
    if twin.scored_with or any(rule.training_only for rule in twin.rules):
        raise RefusalError("it changes what the loss measures, and in a script there is no other loss to compare by")
    if is_umbrella and any(one is not other for one, other in zip(twin.model.children(), roots, strict=True)):
        raise RefusalError("it replaces a model that the script holds itself")


def _always(factor: float) -> Callable[[int], float]:
    """The same at every step."""
    return lambda _step: factor


def _scale_rates(optimizers: Sequence[Optimizer], factor_of: Callable[[int], float]) -> None:
    """Around each step, so that a schedule goes on as if it had been made for the new rate."""
    for optimizer in optimizers:
        before: list[Any] = []
        done = itertools.count()

        def scale(
            one: Optimizer, _args: Any, _kwargs: Any, before: list[Any] = before, done: Iterator[int] = done
        ) -> None:
            factor = factor_of(next(done))
            before[:] = [group.get("lr") for group in one.param_groups]
            for group, rate in zip(one.param_groups, before, strict=True):
                if rate is not None:
                    group["lr"] = rate * factor

        def restore(one: Optimizer, _args: Any, _kwargs: Any, before: list[Any] = before) -> None:
            for group, rate in zip(one.param_groups, before, strict=False):
                group["lr"] = rate

        optimizer.register_step_pre_hook(scale)
        optimizer.register_step_post_hook(restore)


def _divide_losses(divisor: float) -> None:
    """On the way back alone: the loss that is told stays the script's."""

    def backward(own: Callable[..., Any], tensors: Any, *args: Any, **kwargs: Any) -> Any:
        divided = tensors / divisor if isinstance(tensors, torch.Tensor) else [each / divisor for each in tensors]
        return own(divided, *args, **kwargs)

    interpose(torch.autograd, "backward", backward)
