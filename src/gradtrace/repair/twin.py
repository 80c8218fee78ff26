"""The copy that is changed and trained: model, loss function and optimizers, copied together so that they fit.

Nothing of the user's is touched; random numbers are drawn from a generator of the copy's own.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradtrace.errors import InputError
from gradtrace.measure.copying import take_attributes, take_functions, take_hooks
from gradtrace.measure.untouched import fixed_random_state
from gradtrace.repair.autocast import autocast_in_bfloat16
from gradtrace.repair.rewriting import Rewriting, Rule
from gradtrace.tape.private import children_of, put_child


class RefusalError(InputError):
    """A change does not fit this network; the message says why."""


@dataclass
class Twin:
    """A copy to be changed."""

    model: Any
    loss_fn: Callable[[Any, Any], Any]
    optimizers: list[Optimizer]
    generator: torch.Generator
    rules: list[Rule] = field(default_factory=list)
    divisor: float = 1.0
    """The loss is divided by it before the backward pass."""
    is_autocast_wide: bool = False
    """Whether float16 autocast is bfloat16's."""
    scored_with: list[tuple[nn.Module, nn.Module]] = field(default_factory=list)
    """(module that trains, module that the unchanged loss function is to meet in its place)."""

    measured_by: tuple[Rule, ...] = ()
    """Where the loss as it came is no measure: what makes it one, for whoever is held against each other."""

    @property
    def training_loss_fn(self) -> Callable[[Any, Any], Any]:
        """The loss function with the changes in."""
        if not self.rules and self.divisor == 1.0 and not self.is_autocast_wide:
            return self.loss_fn
        return ChangedLoss(self.loss_fn, tuple(self.rules), self.divisor, self.is_autocast_wide)

    def score(self, batch: Any) -> Tensor:
        """The unchanged loss function's value of the changed network, by `measured_by` where that is given."""
        rules = (*self.measured_by, *(rule for rule in self.rules if not rule.training_only))
        is_changed = bool(rules) or self.is_autocast_wide
        loss_fn = ChangedLoss(self.loss_fn, rules, 1.0, self.is_autocast_wide) if is_changed else self.loss_fn
        for trained, scored in self.scored_with:
            replace_module(self.model, trained, scored)
        try:
            value: Tensor = loss_fn(self.model, batch)
            return value
        finally:
            for trained, scored in self.scored_with:
                replace_module(self.model, scored, trained)

    def adopt(self, parameters: Iterable[nn.Parameter], beside: nn.Parameter | None) -> None:
        """Let the optimizer that holds `beside` (or the first) train `parameters` too, in the same group."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        held = [group for group in groups if any(p is beside for p in group["params"])]
        known = {id(p) for group in groups for p in group["params"]}
        for group in (held or groups)[:1]:
            group["params"] += [p for p in parameters if id(p) not in known and p.requires_grad]

    def forget(self, parameters: Iterable[nn.Parameter]) -> None:
        """What the optimizer remembers of weights that are drawn anew is about others."""
        for optimizer in self.optimizers:
            for parameter in parameters:
                optimizer.state.pop(parameter, None)

    def disown(self, parameters: Iterable[nn.Parameter]) -> None:
        """Parameters that are gone."""
        gone = {id(p) for p in parameters}
        self.forget(parameters)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if id(p) not in gone]


@dataclass(frozen=True)
class ChangedLoss:
    """A loss function whose calls are rewritten, whose value is divided and whose float16 autocast is bfloat16's."""

    loss_fn: Callable[[Any, Any], Any]
    rules: tuple[Rule, ...]
    divisor: float
    is_autocast_wide: bool

    def __call__(self, model: Any, batch: Any) -> Any:
        """As `loss_fn`."""
        wide = autocast_in_bfloat16() if self.is_autocast_wide else contextlib.nullcontext()
        with wide, Rewriting(self.rules):
            loss = self.loss_fn(model, batch)
        return loss / self.divisor if self.divisor != 1.0 else loss


def make_twin(model: Any, loss_fn: Any, optimizers: Sequence[Optimizer], seed: int = 0, *, hooks: bool = True) -> Twin:
    """A copy, with the hooks of parameters and optimizers; raises `InputError` that names what cannot be copied."""
    memo: dict[int, Any] = {}
    with fixed_random_state():
        try:
            twin_model, twin_loss_fn, twins = copy.deepcopy((model, loss_fn, list(optimizers)), memo)
        except Exception as error:
            part = _uncopied(model, loss_fn, optimizers)
            raise InputError(
                f"{part} cannot be copied ({type(error).__name__}: {error}), and a change is only tried on a copy"
            ) from error
        take_functions(model, memo)
        for twin, optimizer in zip(twins, optimizers, strict=True):
            take_attributes(twin, optimizer, memo)
        if hooks:
            take_hooks(list(zip(twins, optimizers, strict=True)), model.parameters(), memo)
    for parameter in twin_model.parameters():
        parameter.grad = None
    return Twin(twin_model, twin_loss_fn, twins, torch.Generator().manual_seed(seed))


def _uncopied(model: nn.Module, loss_fn: Any, optimizers: Sequence[Optimizer]) -> str:
    """The smallest part whose copy fails."""
    parts: list[tuple[str, Any]] = [("the loss function", loss_fn)]
    parts += [(f"module {path or '(the model)'}", module) for path, module in reversed(list(model.named_modules()))]
    parts += [(f"optimizer {type(optimizer).__name__}", optimizer) for optimizer in optimizers]
    for name, part in parts:
        try:
            copy.deepcopy(part)
        except Exception:
            return name
    return "the model with its optimizer"


# --------------------------------------------------------------------------------------------------------- surgery


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` wherever `old` is registered; what is shared stays shared."""
    found = False
    for parent in list(model.modules()):
        for name, child in children_of(parent).items():
            if child is old:
                put_child(parent, name, new)
                found = True
    if not found:
        raise RefusalError("the module to replace is not registered in the model (is it the model itself?)")


def take_over(new: nn.Module, old: nn.Module) -> nn.Module:
    """Device, dtype, mode and hooks of `old` for what stands in its place."""
    like = next(iter([*old.parameters(), *old.buffers()]), None)
    if like is not None and like.is_floating_point():
        new.to(device=like.device, dtype=like.dtype)
    new.train(old.training)
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_forward_hooks_with_kwargs",
                 "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called"):  # fmt: skip
        getattr(new, name).update(getattr(old, name))
    return new
