"""Skip connections around layers that follow each other: x + scale f(x), f all that lies between what two layers take.

He et al. (2016). The scale is 1 / sqrt(number of branches) (De & Smith, 2020), or one that is learnt from zero: each
block then begins as the identity (SkipInit, in the same paper; Bachlechner et al., ReZero is all you need, 2021).

Put in by hooks in front of the layers, so that it is the same however the network is written: a Sequential, blocks,
attributes with functions between them.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from gradtrace.records.change import Change
from gradtrace.records.vocabulary import Cause
from gradtrace.repair.changes.draws import listed
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.twin import RefusalError, Twin

if TYPE_CHECKING:
    from gradtrace.records.trace import Op
    from gradtrace.repair.situation import Situation

_HELPS = {Cause.DEPTH_WITHOUT_SKIP, Cause.SMALL_WEIGHTS, Cause.ACTIVATION_DERIVATIVE, Cause.BATCHNORM_EXPLOSION,
          Cause.LARGE_WEIGHTS, Cause.RECURRENT_CONTRACTION, Cause.RECURRENT_EXPANSION}  # fmt: skip
_FEWEST = 4
"""Layers that can be skipped: fewer are not deep."""
_LEARNT = "skip_scale"
"""Name of a scale that is learnt, a parameter of the layer in front of which it is applied."""


class Skip:
    """Adds what the layer before took to what a layer takes, x + scale * f(x), over `number` calls in a row."""

    def __init__(self, number: int, scale: float) -> None:
        self.number, self.scale = number, scale
        self.begin()

    def begin(self, *_: Any) -> None:
        """A forward pre-hook of the model: a pass may have been left half way."""
        self.calls = 0
        self.kept: Any = None

    def __call__(self, layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """A forward pre-hook of each layer."""
        x: Tensor = args[0]
        if self.calls:
            x = self.kept + (self.scale or getattr(layer, _LEARNT)) * x
        self.calls, self.kept = self.calls + 1, x
        if self.calls == self.number:
            self.begin()
        return (x, *args[1:])


def propose(situation: Situation) -> list[Change]:
    """Around every layer whose input has the shape of the next one's."""
    if not _HELPS & set(situation.causes):
        return []
    chains = _chains(situation)
    number = sum(len(chain) - 1 for chain in chains)
    if number < _FEWEST:
        return []
    scale = 1.0 / math.sqrt(number)
    shared = any(len(set(chain)) < len(chain) for chain in chains)
    around = f"{number} {'calls of layers' if shared else 'layers'}"
    return [
        _change(f"Add skip connections around {around}: x + {scale:.2g} f(x).", chains, scale),
        _change(f"Add skip connections around {around}: x + a f(x), a learnt from zero (ReZero).", chains, 0.0),
    ]


def _change(title: str, chains: list[list[str]], scale: float) -> Change:
    return Change(
        kind="skip",
        title=title,
        where=tuple(dict.fromkeys(path for chain in chains for path in chain[:-1])),
        reason="the gradient then has a way on which nothing is multiplied",
        numbers=(("scale", scale),),
        words=(("chains", "\n".join(" ".join(chain) for chain in chains)),),
        code=_code(chains, scale),
        source="He et al. 2016; De & Smith 2020" if scale else "De & Smith 2020; Bachlechner et al. 2021",
        state_dict_loads=bool(scale),
    )


def _code(chains: list[list[str]], scale: float) -> str:
    return "\n".join(
        [
            "class Skip:",
            '    """Adds what the layer before took to what a layer takes: x + scale * f(x)."""',
            "",
            "    def __init__(self, number):",
            "        self.number = number",
            "        self.begin()",
            "",
            "    def begin(self, *_):",
            "        self.calls, self.kept = 0, None",
            "",
            "    def __call__(self, layer, args):",
            "        x = args[0]",
            "        if self.calls:",
            f"            x = self.kept + {f'{scale:.4g}' if scale else f'layer.{_LEARNT}'} * x",
            "        self.calls, self.kept = self.calls + 1, x",
            "        if self.calls == self.number:",
            "            self.begin()",
            "        return (x, *args[1:])",
            "",
            *(line for chain in chains for line in _hooked(chain, learnt=not scale)),
        ]
    )


def _hooked(chain: list[str], *, learnt: bool) -> list[str]:
    scales = [
        f"for path in {listed(list(dict.fromkeys(chain[1:])))}:",
        "    layer = model.get_submodule(path)",
        f"    layer.{_LEARNT} = torch.nn.Parameter(torch.zeros((), device=layer.weight.device))",
        f"    optimizer.param_groups[0]['params'].append(layer.{_LEARNT})",
    ]
    return [
        f"skip = Skip({len(chain)})",
        "model.register_forward_pre_hook(skip.begin)",
        f"for path in {listed(list(dict.fromkeys(chain)))}:",
        "    model.get_submodule(path).register_forward_pre_hook(skip)",
        *(scales if learnt else []),
    ]


def _chains(situation: Situation) -> list[list[str]]:
    """Layers whose inputs have one shape, each fed by nothing but the one before, in the order of the forward pass."""
    ops = situation.trace.ops
    layers = {op.index: op for op in ops if _is_layer(op, situation)}
    below = {}
    for index, op in layers.items():
        under = _under(op, layers, situation)
        if under is not None:
            below[index] = under.index
    chains = []
    for top in [index for index in below if index not in below.values()]:
        chain = [top]
        while chain[-1] in below:
            chain.append(below[chain[-1]])
        chains.append([str(ops[index].site.module) for index in reversed(chain)])
    called = Counter(op.site.module for op in layers.values())
    return [chain for chain in reversed(chains) if all(chain.count(path) == called[path] for path in chain)]


def _is_layer(op: Op, situation: Situation) -> bool:
    if not op.weights or not op.site.module:
        return False
    return isinstance(situation.model.get_submodule(op.site.module), nn.Linear | nn.Conv1d | nn.Conv2d)


def _under(layer: Op, layers: dict[int, Op], situation: Situation) -> Op | None:
    """The layer whose output `layer` takes through ops with one input and one reader, its own input of that shape."""
    taken, below = _operand(layer, situation.trace.ops), _fed_by(layer, layers, situation)
    if taken is None or below is None or below.index not in layers or _readers(below, situation) != 1:
        return None
    before, first = _operand(below, situation.trace.ops), _fed_by(below, layers, situation)
    if before is None or (first is not None and _readers(first, situation) > 1):
        return None  # the start of a branch
    return below if _shape(before) == _shape(taken) != () else None


def _fed_by(layer: Op, layers: dict[int, Op], situation: Situation) -> Op | None:
    """The first op under `layer` that is a layer, has several readers, or several inputs, or none."""
    here = _operand(layer, situation.trace.ops)
    while here is not None and here.index not in layers and _readers(here, situation) == 1:
        under = _operand(here, situation.trace.ops)
        if under is None:
            return here
        here = under
    return here


def _readers(op: Op, situation: Situation) -> int:
    return len(situation.paths.arrivals[op.index])


def _operand(op: Op, ops: tuple[Op, ...]) -> Op | None:
    """What it is applied to, if that is one op, parameters apart."""
    found = [ops[target[0]] for target in op.targets if target is not None and ops[target[0]].parameter is None]
    found = [one for one in found if not _is_view_of_parameter(one, ops)]
    return found[0] if len(found) == 1 else None


def _is_view_of_parameter(op: Op, ops: tuple[Op, ...]) -> bool:
    below = [ops[target[0]] for target in op.targets if target is not None]
    return len(below) == 1 and below[0].parameter is not None


def _shape(op: Op) -> tuple[int, ...]:
    return tuple(op.received.shape) if op.received is not None else ()


def apply(change: Change, twin: Twin) -> None:
    """One hook for each chain; what is learnt is a parameter of the layer in front of which it is applied."""
    scale = change.number("scale")
    for chain in change.word("chains").split("\n"):
        layers = [twin.model.get_submodule(path) for path in chain.split()]
        skip = Skip(len(layers), scale)
        twin.model.register_forward_pre_hook(skip.begin)
        for layer in dict.fromkeys(layers):
            layer.register_forward_pre_hook(skip)
        for layer in [] if scale else dict.fromkeys(layers[1:]):
            if hasattr(layer, _LEARNT):
                raise RefusalError(f"{type(layer).__name__} has a {_LEARNT} of its own")
            beside = next(layer.parameters())
            learnt = nn.Parameter(beside.new_zeros(()))
            layer.register_parameter(_LEARNT, learnt)
            twin.adopt([learnt], beside)


KIND = Kind(propose, apply)
