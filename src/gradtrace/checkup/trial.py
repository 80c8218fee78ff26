"""What does the optimizer's step do? Tried on a deep copy of model and optimizer, never on the user's own.

One step tells the size of the update and whether the format can hold it. A few more tell whether the loss runs away.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gradtrace.errors import InputError
from gradtrace.measure.copying import take_functions
from gradtrace.measure.session import eager
from gradtrace.measure.trace import trace
from gradtrace.measure.untouched import fixed_random_state, random_state, untouched
from gradtrace.records.exhibit import OptimizerStats, Training, UpdateStats

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from torch import Tensor
    from torch.optim import Optimizer

    from gradtrace.records.trace import Trace

_ADAPTIVE = ("adam", "rmsprop", "adagrad", "adadelta", "lion", "nadam", "radam", "adafactor", "lamb", "muon", "sign")

USUAL_MOMENTUM, MOST_MOMENTUM = 0.9, 0.999
TRIAL_STEPS = 5
"""Steps that our own trial takes: a step that overshoots grows the loss by a factor each time, and five show it."""


def describe_optimizer(
    optimizer: Optimizer, model: nn.Module, unowned: Collection[int] = frozenset()
) -> OptimizerStats:
    """Kind, eps, learning rate, and which of the model's parameters it holds; `unowned`: ids of what no module has."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return OptimizerStats(
        kind=type(optimizer).__name__,
        adaptive=_is_adaptive(optimizer),
        eps=max((_eps(group.get("eps", 0.0)) for group in optimizer.param_groups), default=0.0),
        learning_rate=learning_rate_of([optimizer]),
        weight_decay=_coupled_decay(optimizer),
        held_back=_held_back(optimizer),
        lengthens=_lengthens(optimizer),
        parameters=tuple(names[id(parameter)] for parameter in held if id(parameter) in names),
        num_foreign=sum(id(parameter) not in names for parameter in held),
        unowned=tuple(names[id(p)] for p in held if id(p) in unowned and isinstance(p, nn.Parameter)),
    )


def _is_adaptive(optimizer: Optimizer) -> bool:
    kind = type(optimizer).__name__.lower()
    return any(word in kind for word in _ADAPTIVE)


def _lengthens(optimizer: Optimizer) -> float:
    """Adam's first steps are as long as any; an optimizer that does not tell its momentum may have the usual one."""
    if _is_adaptive(optimizer):
        return 1.0
    momenta = [float(group.get("momentum", USUAL_MOMENTUM)) for group in optimizer.param_groups]
    return 1.0 / (1.0 - min(max(momenta, default=0.0), MOST_MOMENTUM))


def _coupled_decay(optimizer: Optimizer) -> float:
    """Weight decay that goes through the optimizer's own scaling, as a penalty in the loss would (not AdamW's)."""
    if "adamw" in type(optimizer).__name__.lower():
        return 0.0
    groups = [group for group in optimizer.param_groups if not group.get("decoupled_weight_decay")]
    return max((float(group.get("weight_decay") or 0.0) for group in groups), default=0.0)


def _held_back(optimizer: Optimizer) -> float:
    """Base rate over present rate: schedulers of torch leave the base in the group. A rate of zero is left alone."""
    rates = [(group.get("initial_lr"), group.get("lr")) for group in optimizer.param_groups]
    return max((float(base) / float(rate) for base, rate in rates if base and rate), default=1.0)


def learning_rate_of(optimizers: Sequence[Optimizer]) -> float:
    """The largest of all groups; NaN where none has one (None: Adafactor finds its own)."""
    rates = [group.get("lr") for optimizer in optimizers for group in optimizer.param_groups]
    return max((float(rate) for rate in rates if rate is not None), default=math.nan)


def _eps(value: Any) -> float:
    """Adafactor has two, of which the first is held against the gradient; None is the precision of float32."""
    first = value[0] if isinstance(value, tuple | list) else value
    return torch.finfo(torch.float32).eps if first is None else float(first)


@dataclass
class _Copy:
    model: Any
    loss_fn: Callable[[Any, Any], Tensor]
    optimizers: list[Optimizer]


def run_trial(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    batches: Sequence[Any],
    optimizers: Sequence[Optimizer],
    *,
    steps: int,
    accumulate: int = 1,
    rate: float = 1.0,
    unseen: Any = None,
) -> Training:
    """Train a copy for `steps` optimizer steps (at least one), and trace it at the end or where it breaks.

    `rate` multiplies the learning rate of every group. It is traced on `unseen`, if that is given.
    """
    with fixed_random_state():
        try:
            memo: dict[int, Any] = {}
            twin_model, twin_loss_fn, twins = copy.deepcopy((model, loss_fn, list(optimizers)), memo)
            take_functions(model, memo)
            for group in (group for optimizer in twins for group in optimizer.param_groups if rate != 1.0):
                group["lr"] = group["lr"] * rate if group.get("lr") is not None else None
            twin = _Copy(twin_model, twin_loss_fn, [_complete(optimizer) for optimizer in twins])
        except Exception as error:
            return Training((), (), steps, failure=f"the model cannot be copied ({type(error).__name__}: {error})")
        # a loss_fn that reaches for the user's own model leaves gradients there: they are taken away again
        with untouched(model, loss_fn=loss_fn, batches=batches), eager():
            try:
                return _train(twin, batches, steps or TRIAL_STEPS, steps, accumulate, unseen)
            except InputError:
                raise
            except Exception as error:
                return Training((), (), steps, failure=f"a step on a copy raised {type(error).__name__}: {error}")


def _complete(optimizer: Optimizer) -> Optimizer:
    """Copying an LBFGS loses attributes that only its constructor sets."""
    if not isinstance(optimizer, torch.optim.LBFGS):
        return optimizer
    (group,) = optimizer.param_groups
    whole = torch.optim.LBFGS(**group)
    whole.state.update(optimizer.state)
    return whole


def _train(
    twin: _Copy, batches: Sequence[Any], num_steps: int, asked: int, accumulate: int, unseen: Any = None
) -> Training:
    losses: list[float] = []
    updates: tuple[UpdateStats, ...] = ()
    for step in range(num_steps):
        # our own trial repeats one batch, so that losses compare; a run the user asked for goes through them all
        chosen = [
            batches[(step * accumulate + i) % len(batches) if asked else i % len(batches)] for i in range(accumulate)
        ]
        passes = _backward(twin, chosen)
        loss = sum(one.loss for one in passes)
        losses.append(loss)
        if all(p.grad is None for p in twin.model.parameters()):
            return Training((), (), asked, failure="loss_fn does not use the model that it is given")
        if not math.isfinite(loss) or not _finite_gradients(twin.model):
            after = _again(twin, next((one for one in passes if not one.is_finite), passes[-1]))
            return Training(tuple(losses), updates, asked, after, broke_at=step)
        is_measured = step in (0, num_steps - 1)  # momentum makes the first step the shortest
        before = {name: p.detach().clone() for name, p in twin.model.named_parameters()} if is_measured else {}
        for optimizer in twin.optimizers:
            _step(optimizer, twin, chosen)
        if step == 0:
            updates = tuple(_update(name, before[name], p) for name, p in twin.model.named_parameters())
        elif is_measured:
            late = {name: _unchanged(before[name], p) for name, p in twin.model.named_parameters()}
            updates = tuple(replace(u, unchanged_frac=min(u.unchanged_frac, late[u.name])) for u in updates)
    last = batches[0] if not asked else batches[num_steps % len(batches)]
    last = last if unseen is None else unseen
    drawn = random_state()
    after = trace(twin.model, twin.loss_fn, last)
    if not math.isfinite(after.loss):
        after = _again(twin, _Pass(after.loss, False, last, drawn))
        return Training((*losses, after.loss), updates, asked, after, broke_at=num_steps)
    return Training((*losses, after.loss), updates, asked, after)


@dataclass(frozen=True, slots=True)
class _Pass:
    """One batch forward and backward."""

    loss: float
    is_finite: bool
    """Whether the loss is, and all gradients so far."""
    batch: Any
    drawn: Callable[[], None]
    """Puts the random numbers back that it drew: noise, a time step, dropout."""


def _backward(twin: _Copy, batches: list[Any]) -> list[_Pass]:
    twin.model.zero_grad(set_to_none=True)
    passes = []
    for batch in batches:
        drawn = random_state()
        loss = twin.loss_fn(twin.model, batch) / len(batches)
        loss.backward()
        value = float(loss.detach())
        passes.append(_Pass(value, math.isfinite(value) and _finite_gradients(twin.model), batch, drawn))
    return passes


def _again(twin: _Copy, one: _Pass) -> Trace:
    """The same pass, with every value looked at: of other random numbers it may well be finite."""
    one.drawn()
    return trace(twin.model, twin.loss_fn, one.batch, values=True)


def _step(optimizer: Optimizer, twin: _Copy, batches: list[Any]) -> None:
    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer.step(lambda: sum(one.loss for one in _backward(twin, batches)))
    else:
        optimizer.step()


def _finite_gradients(model: nn.Module) -> bool:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return all(bool(torch.isfinite(g.coalesce().values() if g.is_sparse else g).all()) for g in gradients)


def _update(name: str, before: Tensor, parameter: Tensor) -> UpdateStats:
    now = parameter.detach()
    difference = now.to(torch.complex128 if now.is_complex() else torch.float64) - before
    return UpdateStats(
        name=name,
        shape=tuple(now.shape),
        weight_norm=float(torch.linalg.vector_norm(before.to(difference.dtype))),
        update_norm=float(torch.linalg.vector_norm(difference)),
        unchanged_frac=_unchanged(before, parameter),
    )


def _unchanged(before: Tensor, parameter: Tensor) -> float:
    """Of the gradient's square, which is what a step of descent lives on, the share of entries that stayed the same."""
    if parameter.grad is None or parameter.grad.is_sparse:
        return 0.0
    square = parameter.grad.abs().double().square()
    total = float(square.sum())
    return float(square[parameter.detach() == before].sum()) / total if total else 0.0
