"""Which model, which parameters and which optimizers does a script train, when it tells us nothing?

Until the first backward pass a global hook notes which modules are called. At that pass the loss's tape says which
parameters it reaches, the optimizers that hold them are looked up among the living objects, and the models are the
outermost called modules that own them. Then every hook is gone again.

Dynamo would trace a global module hook into the graph (or refuse, with ``fullgraph=True``): a script that calls
``torch.compile`` loses the hook at that moment, and its models are the outermost living modules instead.
"""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.autograd.graph import GradientEdge
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from gradtrace.monitor.hooks.backward import read_roots
from gradtrace.monitor.hooks.patches import interpose
from gradtrace.runner.anatomy import named_parameters, named_parts
from gradtrace.runner.names import label_models, name_leftovers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Found:
    """What is trained."""

    models: dict[str, nn.Module]
    """By label; '' for the only one."""
    optimizers: tuple[Optimizer, ...]
    notes: tuple[str, ...] = ()
    """What is trained and could not be found, in sentences."""


class Discovery:
    """Waits for a backward pass towards parameters that an optimizer holds, and calls `then` just before it.

    Afterwards it looks at optimizers alone, and calls `newcomer` with each that steps and was not found. A fault of the
    search, which touches what the script made, goes to `fail` and ends it.
    """

    def __init__(
        self,
        then: Callable[[Found], None],
        newcomer: Callable[[Optimizer], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._then, self._newcomer, self._fail = then, newcomer, fail
        self._called: dict[int, weakref.ref[nn.Module]] | None = {}
        self._known: set[int] | None = None
        """Identities of the optimizers, once they are found."""
        self._calls = nn.modules.module.register_module_forward_pre_hook(self._note)
        self._steps = register_optimizer_step_pre_hook(self._at_step)
        self._removers = [
            interpose(torch.autograd, "backward", self._at_backward),
            interpose(torch, "compile", self._at_compile),
        ]
        self.num_backwards = 0
        self.num_steps = 0

    def remove(self) -> None:
        """Take every hook away; more than once does no harm."""
        self._look_no_more()
        self._steps.remove()

    def _look_no_more(self) -> None:
        self._calls.remove()
        self._called = None
        while self._removers:
            self._removers.pop()()

    # ---------------------------------------------------------------------------------------------------- the hooks

    def _note(self, module: nn.Module, args: Any) -> None:
        if self._called is not None and id(module) not in self._called:
            self._called[id(module)] = weakref.ref(module)

    def _at_compile(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._calls.remove()
        self._called = None
        return own(*args, **kwargs)

    def _at_backward(self, own: Callable[..., Any], tensors: Any, *args: Any, **kwargs: Any) -> Any:
        tensors, roots = read_roots(tensors)
        self.num_backwards += 1
        if _is_power_of_two(self.num_backwards):
            self._look(lambda: reached_leaves(roots))
        # this pass is the watch's already
        return (own if self._known is None else torch.autograd.backward)(tensors, *args, **kwargs)

    def _at_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """For scripts that fill ``.grad`` without ``backward``, and for optimizers made after it.

        Torch goes through all such hooks here: none may come or go meanwhile.
        """
        if self._known is None:
            self.num_steps += 1
            if _is_power_of_two(self.num_steps):
                self._look(lambda: [leaf for leaf in _held_by(optimizer) if leaf.grad is not None])
        elif id(optimizer) not in self._known:
            self._known.add(id(optimizer))
            self._newcomer(optimizer)

    def _look(self, leaves: Callable[[], Sequence[torch.Tensor]]) -> None:
        try:
            found = find(leaves(), self._called_modules())
        except Exception as error:
            self._known = set()
            self._look_no_more()
            self._fail(error)
            return
        if found is not None:
            self._known = {id(optimizer) for optimizer in found.optimizers}
            self._then(found)
            self._look_no_more()  # last: a script may have imported `backward` by name, which goes on being looked at

    def _called_modules(self) -> list[nn.Module] | None:
        if self._called is None:
            return None
        return [module for ref in self._called.values() if (module := ref()) is not None]


# --------------------------------------------------------------------------------------------------------- the search


def find(leaves: Sequence[torch.Tensor], called: list[nn.Module] | None) -> Found | None:
    """Models and optimizers behind the `leaves` that a loss reaches; None while no optimizer holds any of them.

    Args:
        leaves: Tensors that the loss's tape ends in.
        called: Modules called so far, the outer before the inner; None: not known.
    """
    modules, optimizers = _living()
    called = modules if called is None else called
    owned = {id(parameter) for module in called for _, parameter in named_parameters(module)}
    reached = {id(leaf) for leaf in leaves}
    if not any(id(held) in reached for optimizer in optimizers for held in _held_by(optimizer)):
        return None
    optimizers = [one for one in optimizers if any(id(held) in reached | owned for held in _held_by(one))]
    trained = {id(held): held for optimizer in optimizers for held in _held_by(optimizer)}
    outermost = [root for root in _outermost(called) if any(id(p) in trained for _, p in named_parameters(root))]
    roots = [_unwrapped(root) for root in outermost]
    models = label_models(roots, modules)
    covered = {id(parameter) for root in roots for _, parameter in named_parameters(root)}
    left_over, notes = name_leftovers([held for key, held in trained.items() if key not in covered], modules)
    models |= left_over
    return Found(models, tuple(optimizers), notes) if models else None


def reached_leaves(roots: Iterable[Any]) -> list[torch.Tensor]:
    """The tensors that backward from `roots`, tensors or edges of the tape, would give a gradient to.

    >>> w, x = torch.ones(2, requires_grad=True), torch.ones(2)
    >>> [leaf is w for leaf in reached_leaves([(w * x).sum()])]
    [True]
    """
    waiting = [root.grad_fn for root in roots if isinstance(root, torch.Tensor)]
    waiting += [root.node for root in roots if isinstance(root, GradientEdge)]
    seen, leaves = set(waiting), []
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if isinstance(variable := getattr(node, "variable", None), torch.Tensor):
            leaves.append(variable)
        for child, _ in node.next_functions:
            if child not in seen:
                seen.add(child)
                waiting.append(child)
    return leaves


def _is_power_of_two(number: int) -> bool:
    """When to look: each look goes through all objects there are, and there may be nothing to find."""
    return number & (number - 1) == 0


def _living() -> tuple[list[nn.Module], list[Optimizer]]:
    """All modules and optimizers there are; by type, for asking an object itself may run code of its own."""
    gc.collect()  # an optimizer that a script made, dropped and replaced may hold itself in a cycle
    objects = gc.get_objects()
    modules = [one for one in objects if issubclass(type(one), nn.Module) and "_modules" in vars(one)]
    optimizers = [one for one in objects if issubclass(type(one), Optimizer) and _steps_itself(one)]
    return modules, optimizers


def _steps_itself(optimizer: Optimizer) -> bool:
    """Not a wrapper that hands on to another optimizer, as accelerate's: its hooks would never be called."""
    return {"param_groups", "_optimizer_step_post_hooks"} <= vars(optimizer).keys()


def _held_by(optimizer: Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _outermost(modules: list[nn.Module]) -> list[nn.Module]:
    """Those that are part of no other."""
    inner: set[int] = set()
    for module in modules:
        if id(module) not in inner:
            inner |= {id(part) for _, part in named_parts(module)} - {id(module)}
    return [module for module in modules if id(module) not in inner]


def _unwrapped(module: nn.Module) -> nn.Module:
    """The model within DistributedDataParallel or DataParallel: its parameters have their own names there."""
    if isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return module.module  # type: ignore[no-any-return]
    return module
