"""What `copy.deepcopy` loses of optimizers and parameters: attributes beside the state, and the hooks of both.

A hook that closes over the user's model, or names it as a global, is bound anew to the copy: as it stands it would act
on the user's own gradients while the copy is trained.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from types import BuiltinMethodType, CellType, FunctionType, ModuleType
from typing import Any

from torch import nn
from torch.optim import Optimizer

from gradtrace.tape.private import step_hooks_of

_MADE_ANEW = {"step"}
"""A learning rate scheduler puts itself around this method: the schedule is the loop's, and stays with it."""


def take_attributes(twin: Optimizer, optimizer: Optimizer, memo: dict[int, Any]) -> None:
    """Torch copies the groups and the state alone: an LBFGS is without its parameters then."""
    for name, value in vars(optimizer).items():
        if name not in vars(twin) and name not in _MADE_ANEW:
            vars(twin)[name] = _copied(value, memo)


def take_hooks(
    optimizers: Sequence[tuple[Optimizer, Optimizer]], parameters: Iterable[nn.Parameter], memo: dict[int, Any]
) -> None:
    """Of (copy, original), in their order."""
    for twin, optimizer in optimizers:
        for copies, hooks in zip(step_hooks_of(twin), step_hooks_of(optimizer), strict=True):
            copies.update({key: rebound(hook, memo) for key, hook in hooks.items()})
    for parameter in parameters:
        copied = memo.get(id(parameter))
        if copied is None:  # of a module with a copy of its own making
            continue
        for hook in (getattr(parameter, "_backward_hooks", None) or {}).values():
            copied.register_hook(rebound(hook, memo))
        for hook in (getattr(parameter, "_post_accumulate_grad_hooks", None) or {}).values():
            copied.register_post_accumulate_grad_hook(rebound(hook, memo))


def rebound(hook: Callable[..., Any], memo: dict[int, Any]) -> Callable[..., Any]:
    """The same hook, about the copies of whatever it closes over or names that was copied.

    >>> weights, copied = [1.0], [2.0]
    >>> rebound(lambda: weights, {id(weights): copied})()
    [2.0]
    """
    if isinstance(hook, BuiltinMethodType) and not isinstance(hook.__self__, ModuleType | None):
        method: Callable[..., Any] = getattr(_copied(hook.__self__, memo), hook.__name__)
        return method
    if not isinstance(hook, FunctionType):
        hook = _copied(hook, memo)
        return hook
    cells = tuple(_cell(cell, memo) for cell in hook.__closure__ or ())
    named = {name: memo[id(hook.__globals__[name])] for name in hook.__code__.co_names
             if name in hook.__globals__ and id(hook.__globals__[name]) in memo}  # fmt: skip
    if not cells and not named:
        return hook
    space = {**hook.__globals__, **named} if named else hook.__globals__
    new = FunctionType(hook.__code__, space, hook.__name__, hook.__defaults__, cells)
    new.__kwdefaults__ = hook.__kwdefaults__
    return new


def _cell(cell: CellType, memo: dict[int, Any]) -> CellType:
    try:
        return CellType(_copied(cell.cell_contents, memo))
    except ValueError:  # an empty one
        return cell


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """What cannot be copied is shared: a file, a lock."""
    try:
        return rebound(value, memo) if isinstance(value, FunctionType) else copy.deepcopy(value, memo)
    except Exception:
        return value
