"""What was given to `fix`: numbers within their bounds, optimizers, or our own where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from gradtrace.errors import InputError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

DEFAULT_RATE, DEFAULT_MOMENTUM = 0.01, 0.9
"""Of the SGD that is used where no optimizer is given: its steps are proportional to the gradients that are judged. The
rate is the usual one, with which the range test begins."""


def check_numbers(steps: int | None, seeds: int, time_budget_s: float | None) -> None:
    """Raises `InputError`."""
    if steps is not None and steps < 1:
        raise InputError(f"steps must be 1 or more, but it is {steps}")
    if seeds < 2:
        raise InputError(f"seeds must be 2 or more, since of one training nothing is known about chance; got {seeds}")
    if time_budget_s is not None and not time_budget_s > 0.0:
        raise InputError(f"time_budget_s must be above 0, but it is {time_budget_s}")


def chosen_optimizers(optimizer: Any, model: nn.Module) -> tuple[list[Optimizer], str]:
    """Those given, or our own, and what they are in words."""
    if optimizer is None:
        return [our_optimizer(model, DEFAULT_RATE)], words_of_ours(DEFAULT_RATE)
    given = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    for one in given:
        if not isinstance(one, torch.optim.Optimizer):
            raise InputError(
                f"optimizer must be a torch.optim.Optimizer or a list of them, but got {type(one).__name__}"
            )
    rates = [group.get("lr") for one in given for group in one.param_groups]
    names = " and ".join(type(one).__name__ for one in given)
    return given, f"{names}(lr={', '.join(f'{rate:.3g}' for rate in dict.fromkeys(rates) if rate is not None)})"


def our_optimizer(model: nn.Module, rate: float) -> Optimizer:
    """SGD with momentum over what learns."""
    return torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=rate, momentum=DEFAULT_MOMENTUM)


def words_of_ours(rate: float) -> str:
    """What it is.

    >>> words_of_ours(0.1)
    'SGD(lr=0.1, momentum=0.9), since none was given'
    """
    return f"SGD(lr={rate:g}, momentum={DEFAULT_MOMENTUM}), since none was given"
