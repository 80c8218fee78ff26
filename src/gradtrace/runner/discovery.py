"""Which models, tensors and optimizers does a script train, when it tells us nothing?

Whatever an optimizer of `torch.optim` holds. A training begins at the first forward pass, in grad mode, of a module
that an optimizer holds parameters of; where no module is, at the making of the optimizer; and where neither was seen,
at the first backward pass or optimizer's step. Then the living objects are gone through once: the models are the
outermost modules that own what an optimizer holds, and what no module owns is a tensor of the script's.

Dynamo would trace what stands in for a module's call into the graph (or refuse, with ``fullgraph=True``): a script that
calls ``torch.compile`` loses the stand-in at that moment.
"""

from __future__ import annotations

import gc
import sys
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.autograd.graph import GradientEdge
from torch.optim.optimizer import Optimizer

from gradtrace.monitor.hooks.optimizer_steps import is_stepping, listen, takes_closure
from gradtrace.monitor.hooks.patches import interpose
from gradtrace.runner.anatomy import named_parameters
from gradtrace.runner.by_hand import ByHand
from gradtrace.runner.names import label_models, name_tensors
from gradtrace.runner.ownership import owners
from gradtrace.runner.unreached import Unreached
from gradtrace.tape.callers import call_from
from gradtrace.tape.graph import reached_leaves
from gradtrace.tape.private import inside_tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Found:
    """What is trained."""

    models: dict[str, nn.Module | torch.Tensor]
    """By label, '' for the only one; a tensor by the script's own name for it."""
    optimizers: tuple[Optimizer, ...]
    others: tuple[Optimizer, ...] = ()
    """There are these as well, and none of what they hold has been seen in use yet."""
    stepping: Optimizer | None = None
    """Whose closure it is that was found to train: this very step is the first."""


class Discovery:
    """Waits for a training to begin, and calls `then` just before it does.

    A fault of the search, which touches what the script made, goes to `fail` and ends it.
    """

    def __init__(self, then: Callable[[Found], None], fail: Callable[[Exception], None]) -> None:
        self._then, self._fail = then, fail
        self._is_over = False
        self._looking = threading.RLock()
        """Of several threads that begin to train at once, one finds it; the others wait until that is done."""
        self._has_optimizers = bool(living()[1])
        self._by_hand = ByHand()
        self.unreached = Unreached()
        self._looked: set[int] = set()
        """Modules that no optimizer held anything of when they were called."""
        self._calls = interpose(nn.Module, "__call__", self._at_call)
        self._removers = [
            self._calls.remove,
            interpose(Optimizer, "__init__", self._at_making).remove,
            interpose(torch.autograd, "backward", self._at_backward).remove,
            interpose(torch, "compile", self._at_compile).remove,
            listen(before=self._at_step, after=self._after_step),
        ]
        self._stepping: Optimizer | None = None
        self.num_forwards = 0
        """Calls of modules in grad mode since the last backward pass."""
        self.num_backwards = 0
        self.num_steps = 0

    @property
    def has_called_others(self) -> bool:
        """Whether modules were called, in grad mode, of which no optimizer holds anything."""
        return bool(self._looked)

    @property
    def moved_by_hand(self) -> list[torch.Tensor]:
        """What backward passes came to, and was written to since, as by ``w -= lr * w.grad``."""
        return self._by_hand.moved

    def remove(self) -> None:
        """Take every hook away; more than once does no harm."""
        self._is_over = True
        for remove in self._removers:
            remove()

    # ---------------------------------------------------------------------------------------------------- the hooks

    def _at_making(self, own: Callable[..., Any], optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        result = own(optimizer, *args, **kwargs)
        if not self._is_over:
            self._has_optimizers = True
            self._looked.clear()
            held = held_by(optimizer) if _steps_itself(optimizer) else []
            if held and not any(isinstance(tensor, nn.Parameter) for tensor in held):
                self._look(lambda: held)
        return result

    def _at_call(self, own: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        if not self._is_over and torch.is_grad_enabled() and not inside_tracing():  # which records what we do
            self.num_forwards += 1
            if self._has_optimizers and id(module) not in self._looked:
                self._looked.add(id(module))
                self._look(lambda: [parameter for _, parameter in named_parameters(module)], module)
                if self._is_over:  # this call is the watch's already
                    return type(module).__call__(module, *args, **kwargs)
        return own(module, *args, **kwargs)

    def _at_compile(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._calls.remove()
        return own(*args, **kwargs)

    def _at_backward(self, own: Callable[..., Any], tensors: Any, *args: Any, **kwargs: Any) -> Any:
        self.num_backwards += 1
        self.num_forwards = 0
        if not self._is_over and _is_power_of_two(self.num_backwards) and not hasattr(tensors, "__next__"):
            self._look(lambda: self._reached(reached_leaves(tensors if _is_several(tensors) else [tensors])))
        # this pass is the watch's already
        backward = torch.autograd.backward if self._is_over else own
        return call_from(sys._getframe(1), backward, (tensors, *args), kwargs)

    def _reached(self, leaves: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        self._by_hand.note(leaves)
        self.unreached.reached(leaves)
        return leaves

    def _at_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """For scripts that fill ``.grad`` without ``backward``, and for optimizers made after it."""
        if not self._is_over:
            self.num_steps += 1
            if _is_power_of_two(self.num_steps):
                self._look(lambda: self.unreached.stepped(held_by(optimizer)))
            self._stepping = optimizer if takes_closure(args, kwargs) else None

    def _after_step(self, _optimizer: Optimizer) -> None:
        self._stepping = None

    def _look(self, leaves: Callable[[], Sequence[torch.Tensor]], called: nn.Module | None = None) -> None:
        with self._looking:
            if not self._is_over:
                self._find(leaves, called)

    def _find(self, leaves: Callable[[], Sequence[torch.Tensor]], called: nn.Module | None) -> None:
        try:
            found = find(leaves(), called)
        except Exception as error:
            self.remove()
            self._fail(error)
            return
        if found is not None:
            self._is_over = True
            self._then(replace(found, stepping=self._stepping if is_stepping() else None))  # a closure may have raised
            self._stepping = None
            self.remove()  # last: a script may have imported `backward` by name, which goes on being looked at


# --------------------------------------------------------------------------------------------------------- the search


def find(leaves: Sequence[torch.Tensor], called: nn.Module | None = None) -> Found | None:
    """What the optimizers hold that hold any of the `leaves`, which are in use; None while none does.

    Of several modules that own the same, one that `called` is part of is the model.
    """
    used = {id(leaf) for leaf in leaves}
    if not used:
        return None
    modules, optimizers = living()
    owned = owners(modules, called)
    roots = {id(owned[key]) for key in used if key in owned}
    now, later = list[Optimizer](), list[Optimizer]()
    for optimizer in optimizers:
        held = [id(tensor) for tensor in held_by(optimizer)]
        if not used.isdisjoint(held):
            roots |= {id(owned[key]) for key in held if key in owned}
            now.append(optimizer)
        else:
            later.append(optimizer)
    if not now:
        return None
    along = [one for one in later if any(id(owned.get(id(t))) in roots for t in held_by(one))]  # of the same models
    later = [one for one in later if all(one is not other for other in along)]
    return Found(_described([*now, *along], later, owned), (*now, *along), tuple(later))


def find_all() -> Found:
    """What any optimizer holds, in use or not: a change is one of the whole training."""
    modules, optimizers = living()
    return Found(_described(optimizers, [], owners(modules)), tuple(optimizers))


MOST_SEARCHES = 16
"""For optimizers that were made after the training had begun: each goes through all living objects."""


class Newcomers:
    """Optimizers that step and that nobody has seen before: a second training, a model made late."""

    def __init__(self) -> None:
        self.num_left_out = 0
        """Beyond `MOST_SEARCHES`."""
        self._num = 0

    def find(self, optimizer: Optimizer) -> dict[str, nn.Module | torch.Tensor] | None:
        """What `optimizer` holds, by label; None: it is left out."""
        if not _steps_itself(optimizer):
            return None
        self._num += 1
        if self._num > MOST_SEARCHES:
            self.num_left_out += 1
            return None
        modules, _ = living()
        return _described([optimizer], [], owners(modules), is_alone=False)


def _described(
    optimizers: Sequence[Optimizer],
    others: Sequence[Optimizer],
    owned: dict[int, nn.Module],
    *,
    is_alone: bool = True,
) -> dict[str, nn.Module | torch.Tensor]:
    held = list(_distinct(tensor for one in optimizers for tensor in held_by(one)))
    roots = list(_distinct(owned[id(tensor)] for tensor in held if id(tensor) in owned))
    everything = roots + list(_distinct(owned[id(t)] for o in others for t in held_by(o) if id(t) in owned))
    labels = label_models([_unwrapped(root) for root in everything], is_alone=is_alone)
    found: dict[str, nn.Module | torch.Tensor] = dict([*labels.items()][: len(roots)])
    found |= name_tensors([tensor for tensor in held if id(tensor) not in owned])
    return found


def _distinct(objects: Iterable[Any]) -> Iterator[Any]:
    seen: set[int] = set()
    for one in objects:
        if id(one) not in seen:
            seen.add(id(one))
            yield one


def _is_several(roots: Any) -> bool:
    return isinstance(roots, list | tuple) and not isinstance(roots, GradientEdge)  # which is a tuple of something else


def _is_power_of_two(number: int) -> bool:
    """When to look: each look goes through all objects there are, and there may be nothing to find."""
    return number & (number - 1) == 0


def living(*, collects: bool = True) -> tuple[list[nn.Module], list[Optimizer]]:
    """All modules and optimizers there are; by type, for asking an object itself may run code of its own.

    `collects`: without those that a script made, dropped and replaced, and that hold themselves in a cycle.
    """
    if collects:
        gc.collect()
    found = [one for one in gc.get_objects() if issubclass(type(one), (nn.Module, Optimizer))]
    modules = [one for one in found if issubclass(type(one), nn.Module) and "_modules" in vars(one)]
    optimizers = [one for one in found if issubclass(type(one), Optimizer) and _steps_itself(one)]
    return modules, optimizers


def _steps_itself(optimizer: Optimizer) -> bool:
    """Not a wrapper that hands on to another optimizer, as accelerate's: its hooks would never be called."""
    return {"param_groups", "defaults", "state"} <= vars(optimizer).keys()


def held_by(optimizer: Optimizer) -> list[torch.Tensor]:
    """What it trains."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _unwrapped(module: nn.Module) -> nn.Module:
    """The model within DistributedDataParallel or DataParallel: its parameters have their own names there."""
    if isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return module.module  # type: ignore[no-any-return]
    return module
