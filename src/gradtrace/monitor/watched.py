"""What is watched: models under their labels, optimizers, and every parameter as one column of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradtrace.checkup.trial import describe_optimizer
from gradtrace.errors import InputError
from gradtrace.measure.trace import check_is_module
from gradtrace.monitor.seats import Seats, as_optimizers
from gradtrace.monitor.statistics.norms import norms, plain
from gradtrace.records.run import WatchedParameter
from gradtrace.tape.private import compiled_call, original_of, put_child, put_tensors, version_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch.optim import Optimizer

    from gradtrace.records.exhibit import OptimizerStats

MOST_ARRIVALS = 8
"""Parameters that are looked at for whether a backward pass was theirs."""

MOST_SENTINEL_ELEMENTS = 2**14
"""A gradient that takes no time to look at."""


ONLY = "model"
"""The label of what was the only model once others have joined."""


class NamesOthers(nn.Module):
    """Has names for modules, and for their parts and parameters, that they do not have: they are called, and not it."""

    def moving(self) -> Sequence[Tensor]:
        """What a call of them moves in place and is no buffer to torch."""
        return ()


class Watched:
    """Models, plain tensors and optimizers as they were given; more of them may join.

    Raises:
        InputError: something is no module, tensor or optimizer, or a parameter has no shape yet.
    """

    def __init__(self, models: Any, optimizers: Any) -> None:
        self.models, self.tensors = _labelled(models)
        self.seats = Seats(as_optimizers(optimizers))
        self.optimizers = self.seats.optimizers
        self.roots: dict[str, nn.Module] = {}
        """Modules whose calls are looked at, under the paths that the whole has them by."""
        self.names: list[str] = []
        self.parameters: list[Tensor] = []
        self._index: dict[int, int] = {}
        self._next = 0
        self._held: dict[int, tuple[int, list[int]]] = {}
        self._told: dict[int, tuple[int, list[int]]] = {}
        self.num_changes = 0
        """Times that an optimizer was found to hold other parameters than before."""
        self._take(self.models, self.tensors)

    def join(self, models: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], optimizers: Sequence[Any]) -> None:
        """More is trained than was known; what is known already stays as it is."""
        if "" in self.models and (models or tensors):  # no longer the only one
            own = {id(parameter) for parameter in self.models[""].parameters()}
            for i, parameter in enumerate(self.parameters):
                self.names[i] = f"{ONLY}.{self.names[i]}" if id(parameter) in own else self.names[i]
            self.models = {ONLY if label == "" else label: model for label, model in self.models.items()}
            self.roots = {f"{ONLY}.{path}" if path else ONLY: root for path, root in self.roots.items()}
        taken = {*self.models, *self.tensors}
        fresh = {unused_name(label, taken): model for label, model in models.items() if not self._holds_all(model)}
        named = {unused_name(name, taken): t for name, t in tensors.items() if id(t) not in self._index}
        self.models |= fresh
        self.tensors |= named
        self.seats.add(optimizers)
        self._take(fresh, named)
        self.num_changes += 1

    def _holds_all(self, model: nn.Module) -> bool:
        return all(id(parameter) in self._index for parameter in model.parameters())

    def _take(self, models: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> None:
        self.whole = _together(self.models, self.tensors)
        self.roots |= models
        for label, model in models.items():
            for name, parameter in _original(model).named_parameters():
                self._add(f"{label}.{name}" if label else name, parameter)
        for name, tensor in tensors.items():
            self._add(name, tensor)
        self._stride = max(1, len(self.parameters) // MOST_ARRIVALS)
        self._held.clear()

    def _add(self, name: str, parameter: Tensor) -> None:
        if is_lazy(parameter):
            raise InputError(f"{name} has no shape yet (a lazy module): run one batch through the model first")
        if id(parameter) not in self._index:
            self._index[id(parameter)] = len(self.parameters)
            self.names.append(name)
            self.parameters.append(parameter)

    def holds(self, optimizer: Optimizer) -> bool:
        """Whether `optimizer` holds any of the parameters."""
        return any(id(parameter) in self._index for group in optimizer.param_groups for parameter in group["params"])

    def seat(self, optimizer: Optimizer) -> bool:
        """Whether it is one of ours, or one of ours made anew."""
        if id(optimizer) in self.seats.places:
            return True
        before = self.seats.give(optimizer, self._holds)
        if before is None:
            return False
        self._held[id(optimizer)] = self._held.pop(id(before))
        self._told.clear()
        if describe_optimizer(before, self.whole) != describe_optimizer(optimizer, self.whole):
            self.num_changes += 1
        return True

    def _holds(self, optimizer: Optimizer) -> set[int | None]:
        """Columns, and None for what is not watched."""
        if id(optimizer) in self.seats.places:
            return {*self.held_by(optimizer)}
        return {self._index.get(id(parameter)) for group in optimizer.param_groups for parameter in group["params"]}

    @property
    def compiled(self) -> bool:
        """Whether a model is compiled: hooks on modules would not fire, or change what is compiled."""
        return any(
            original_of(model) is not None or any(compiled_call(module) is not None for module in model.modules())
            for model in self.models.values()
        )

    @property
    def scripted(self) -> bool:
        """Whether a part is scripted or traced by ``torch.jit``, and takes no hooks."""
        return any(isinstance(module, torch.jit.ScriptModule) for module in self.whole.modules())

    @property
    def has_shards(self) -> bool:
        """Whether of any parameter a part lies in this process."""
        return any(hasattr(parameter, "to_local") for parameter in self.parameters)

    def is_watched(self, tensor: Tensor) -> bool:
        """Whether it is one of the parameters."""
        return id(tensor) in self._index

    def parts(self) -> dict[str, nn.Module]:
        """What may be called in place of a root, which is called by nobody: its children."""
        return {path: part for label, root in self.roots.items() for path, part in _parts_of(label, root).items()}

    def keep_called(self, called: set[str]) -> None:
        """From roots that are called by nobody to their parts that are."""
        roots: dict[str, nn.Module] = {}
        for label, root in self.roots.items():
            parts = _parts_of(label, root)
            roots |= parts if label not in called and not called.isdisjoint(parts) else {label: root}
        self.roots = roots

    def columns(self) -> tuple[WatchedParameter, ...]:
        """One a parameter."""
        holders = {i: number for number, one in enumerate(self.optimizers) for i in self.held_by(one)}
        return tuple(
            WatchedParameter(name, tuple(p.shape), str(p.dtype).removeprefix("torch."), holders.get(i))
            for i, (name, p) in enumerate(zip(self.names, self.parameters, strict=True))
        )

    def described(self) -> tuple[OptimizerStats, ...]:
        """The optimizers as records."""
        unowned = {id(tensor) for tensor in self.tensors.values()}
        return tuple(describe_optimizer(one, self.whole, unowned) for one in self.optimizers)

    def arrivals(self) -> list[tuple[int, int]]:
        """What differs after a backward pass that brought the parameters gradients; of a few, spread over all."""
        return [(id(p.grad), -1 if p.grad is None else version_of(p.grad)) for p in self.parameters[:: self._stride]]

    def with_gradient(self) -> list[bool]:
        """Which of the parameters that optimizers hold have a gradient that is not zero; the others move by nobody."""
        held = sorted({i for one in self.optimizers for i in self.held_by(one)})
        return [bool(norm > 0.0) for norm in norms([self.parameters[i].grad for i in held]).tolist()]

    def next_columns(self, most_bytes: int) -> list[int]:
        """As many parameters as fit into `most_bytes` (one at least), in turn: all in order where all fit."""
        num = len(self.parameters)
        chosen, size = list[int](), 0
        for i in [*range(self._next, num), *range(self._next)]:
            size += self.parameters[i].nbytes
            if chosen and size > most_bytes:
                break
            chosen.append(i)
        self._next = 0 if len(chosen) == num else (self._next + len(chosen)) % num
        return sorted(chosen)

    def sentinel(self) -> Tensor | None:
        """The gradient of the first small parameter that has one: what is not finite on the way back ends up there."""
        small = (p.grad for p in self.parameters if p.grad is not None and p.numel() <= MOST_SENTINEL_ELEMENTS)
        return next(map(plain, small), None)

    def held_by(self, optimizer: Optimizer) -> list[int]:
        """Columns of the parameters that `optimizer` moves."""
        num = sum(len(group["params"]) for group in optimizer.param_groups)
        known = self._held.get(id(optimizer))
        if known is None or known[0] != num:
            held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            known = num, [self._index[id(parameter)] for parameter in held if id(parameter) in self._index]
            self._held[id(optimizer)] = known
            self.num_changes += 1
        return known[1]

    def columns_of(self, module: nn.Module) -> list[int]:
        """Of its parameters, as far as they are watched."""
        return [self._index[id(parameter)] for parameter in module.parameters() if id(parameter) in self._index]

    def told_by(self, optimizer: Optimizer) -> list[int] | None:
        """Columns whose gradients count when `optimizer` steps: its own, and those that none holds; None: all."""
        if len(self.optimizers) == 1:
            return None
        known = self._told.get(id(optimizer))
        if known is None or known[0] != self.num_changes:
            others = {i for other in self.optimizers if other is not optimizer for i in self.held_by(other)}
            others -= set(self.held_by(optimizer))
            known = self.num_changes, [i for i in range(len(self.parameters)) if i not in others]
            self._told[id(optimizer)] = known
        return known[1]

    def is_spoilt(self, optimizer: Optimizer) -> bool:
        """Whether a gradient that `optimizer` would apply is not finite."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        return bool(gradients) and not bool(torch.isfinite(norms(gradients)).all())


def _labelled(models: Any) -> tuple[dict[str, nn.Module], dict[str, Tensor]]:
    if isinstance(models, nn.Module):
        return {"": models}, {}
    if not hasattr(models, "__iter__") or isinstance(models, type):
        check_is_module(models)
    named = dict(models) if hasattr(models, "items") else {str(i): model for i, model in enumerate(models)}
    for label, model in named.items():
        if not isinstance(model, nn.Module | Tensor):
            raise InputError(f"model {label!r} must be a torch.nn.Module, but it is {type(model).__name__}")
    if not named:
        raise InputError("no model was given to watch")
    tensors = {label: one for label, one in named.items() if isinstance(one, Tensor)}
    return {label: one for label, one in named.items() if isinstance(one, nn.Module)}, tensors


def _together(models: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> nn.Module:
    """One module that holds all, under their labels; the only one as it is."""
    if list(models) == [""] and not tensors:
        return _original(models[""])
    whole = nn.Module()
    for label, model in models.items():
        put_child(whole, label or "model", _original(model))
    put_tensors(whole, tensors)
    return whole


def unused_name(name: str, taken: set[str]) -> str:
    """`name`, or `name_2` and so on; taken from now on.

    >>> taken = {"net"}
    >>> unused_name("net", taken), unused_name("net", taken), unused_name("head", taken)
    ('net_2', 'net_3', 'head')
    """
    number, label = 1, name
    while label in taken:
        number += 1
        label = f"{name}_{number}"
    taken.add(label)
    return label


def _parts_of(label: str, root: nn.Module) -> dict[str, nn.Module]:
    children = _callable_children(_original(root))
    return {f"{label}.{name}" if label else name: child for name, child in children}


def _callable_children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from ((f"{name}.{inner}", grandchild) for inner, grandchild in _callable_children(child))
        else:
            yield name, child


def _original(model: nn.Module) -> nn.Module:
    original = original_of(model)
    return model if original is None else original
