"""What `copy.deepcopy` loses of modules, optimizers and parameters: what closes over the original, attributes, hooks.

A function is copied as itself. One that a module keeps (``self.mlpf = lambda x: self.mlp(x)``, as minGPT's blocks do)
would go on calling the original's layers, which no optimizer of the copy moves; a hook that closes over the user's
model, or names it as a global, would act on the user's own gradients. Both are bound anew to the copy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from types import BuiltinMethodType, CellType, FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gradtrace.tape.private import step_hooks_of

_MADE_ANEW = {"step"}
"""A learning rate scheduler puts itself around this method: the schedule is the loop's, and stays with it."""


def take_functions(model: nn.Module, memo: dict[int, Any]) -> None:
    """Functions that the modules of `model` keep as attributes; `memo` is of the copy.

    >>> def kept(layer):
    ...     block = nn.Sequential(layer)
    ...     block.call = lambda x: layer(x)
    ...     return block
    >>> block, memo = kept(nn.Linear(2, 2)), {}
    >>> twin = copy.deepcopy(block, memo)
    >>> take_functions(block, memo)
    >>> twin.call.__closure__[0].cell_contents is twin[0]
    True
    """
    for module in model.modules():
        twin = memo.get(id(module))
        if not isinstance(twin, nn.Module) or twin is module:  # of a copy of its own making
            continue
        for name, value in vars(module).items():
            if (fitted := _fitted(value, memo)) is not value and name in vars(twin):
                vars(twin)[name] = fitted


def _fitted(value: Any, memo: dict[int, Any], inside: tuple[Any, ...] = ()) -> Any:
    """A function about the copies of what it closes over, or a list of such; itself, if nothing of it was copied.

    Whatever else it closes over stays shared: a list that outputs are gathered in is read by others too.
    """
    if any(value is one for one in inside):  # it calls itself
        return value
    if type(value) in (list, tuple):
        parts = [_fitted(part, memo, (*inside, value)) for part in value]
        return type(value)(parts) if any(a is not b for a, b in zip(parts, value, strict=True)) else value
    if not isinstance(value, FunctionType):
        return value
    cells = tuple(_fitted_cell(cell, memo, (*inside, value)) for cell in value.__closure__ or ())
    return value if all(a is b for a, b in zip(cells, value.__closure__ or (), strict=True)) else _anew(value, cells)


def _fitted_cell(cell: CellType, memo: dict[int, Any], inside: tuple[Any, ...]) -> CellType:
    try:
        content = cell.cell_contents
    except ValueError:  # an empty one
        return cell
    fitted = (
        memo.get(id(content), content) if isinstance(content, nn.Module | Tensor) else _fitted(content, memo, inside)
    )
    return cell if fitted is content else CellType(fitted)


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
    return _anew(hook, cells, {**hook.__globals__, **named} if named else hook.__globals__)


def _anew(function: FunctionType, cells: tuple[CellType, ...], names: dict[str, Any] | None = None) -> FunctionType:
    space = function.__globals__ if names is None else names
    new = FunctionType(function.__code__, space, function.__name__, function.__defaults__, cells)
    new.__kwdefaults__ = function.__kwdefaults__
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
