"""Skip connections around pairs of a layer and its activation, where the shapes allow: x + scale f(x).

He et al. (2016). The scale is 1 / sqrt(number of branches) (De & Smith, 2020), or one that is learnt from zero: each
block then begins as the identity (SkipInit, in the same paper; Bachlechner et al., ReZero is all you need, 2021).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor, nn

from gradtrace.records.change import Change
from gradtrace.records.vocabulary import Cause
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.twin import RefusalError, Twin
from gradtrace.tape.private import put_child

if TYPE_CHECKING:
    from gradtrace.repair.situation import Situation

_HELPS = {Cause.DEPTH_WITHOUT_SKIP, Cause.SMALL_WEIGHTS, Cause.ACTIVATION_DERIVATIVE, Cause.BATCHNORM_EXPLOSION,
          Cause.LARGE_WEIGHTS}  # fmt: skip
_FEWEST = 4
"""Layers that can be skipped: fewer are not deep."""


class Skip(nn.Module):
    """x + scale * f(x), f the modules in order; the scale is a number, or learnt from zero."""

    def __init__(self, modules: list[nn.Module], scale: float | nn.Parameter) -> None:
        super().__init__()
        self.branch = nn.Sequential(*modules)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """[*] -> [*]."""
        out: Tensor = x + self.scale * self.branch(x)
        return out


def propose(situation: Situation) -> list[Change]:
    """In each nn.Sequential, around a layer and what follows it up to the next one."""
    if not _HELPS & set(situation.causes):
        return []
    stacks = [(path, _groups(m)) for path, m in situation.model.named_modules() if type(m) is nn.Sequential]
    number = sum(len(groups) for _, groups in stacks)
    if number < _FEWEST:
        return []
    scale = 1.0 / math.sqrt(number)
    return [
        _change(f"Add skip connections around {number} layers: x + {scale:.2g} f(x).", stacks, scale),
        _change(f"Add skip connections around {number} layers: x + a f(x), a learnt from zero (ReZero).", stacks, 0.0),
    ]


def _change(title: str, stacks: list[tuple[str, list[list[str]]]], scale: float) -> Change:
    parts = [(path, group) for path, groups in stacks for group in groups]
    return Change(
        kind="skip",
        title=title,
        where=tuple(f"{path}.{group[0]}".lstrip(".") for path, group in parts),
        reason="the gradient then has a way on which nothing is multiplied",
        numbers=(("scale", scale),),
        words=(("stacks", "\n".join(path for path, groups in stacks if groups)),),
        code=_code(parts, scale),
        source="He et al. 2016; De & Smith 2020" if scale else "De & Smith 2020; Bachlechner et al. 2021",
        state_dict_loads=False,
    )


def _code(parts: list[tuple[str, list[str]]], scale: float) -> str:
    made = [] if scale else ["        self.scale = torch.nn.Parameter(torch.zeros(()))"]
    held = ["    optimizer.param_groups[0]['params'].append(stack.get_submodule(names[0]).scale)"]
    return "\n".join(
        [
            "class Skip(torch.nn.Module):",
            "    def __init__(self, *modules):",
            "        super().__init__()",
            "        self.branch = torch.nn.Sequential(*modules)",
            *made,
            "",
            "    def forward(self, x):",
            f"        return x + {f'{scale:.4g}' if scale else 'self.scale'} * self.branch(x)",
            "",
            f"for path, names in {parts!r}:",
            "    stack = model.get_submodule(path)",
            "    stack._modules[names[0]] = Skip(*[stack.get_submodule(name) for name in names])",
            "    for name in names[1:]:",
            "        stack._modules[name] = torch.nn.Identity()",
            *([] if scale else held),
        ]
    )


def _groups(stack: nn.Sequential) -> list[list[str]]:
    """Names of the children of each part from one layer to the next whose output has the shape of its input."""
    groups: list[list[str]] = []
    for name, child in stack.named_children():
        if isinstance(child, nn.Linear | nn.Conv1d | nn.Conv2d):
            groups.append([name])
        elif groups and not list(child.children()):
            groups[-1].append(name)
        else:
            groups.append([])
    return [group for group in groups if len(group) > 1 and _keeps_shape(stack.get_submodule(group[0]))]


def _keeps_shape(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Linear):
        return layer.in_features == layer.out_features
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        same = layer.padding == "same" or all(
            2 * p == d * (k - 1)
            for p, d, k in zip(_tuple(layer.padding), layer.dilation, layer.kernel_size, strict=False)
        )
        return layer.in_channels == layer.out_channels and set(layer.stride) == {1} and same
    return False


def _tuple(padding: object) -> tuple[int, ...]:
    return padding if isinstance(padding, tuple) else ()


def apply(change: Change, twin: Twin) -> None:
    """The first module of each part becomes the whole, the others the identity."""
    done = 0
    for path in change.word("stacks").split("\n"):
        stack = twin.model.get_submodule(path)
        if not isinstance(stack, nn.Sequential):
            raise RefusalError(f"{path or 'the model'} is no nn.Sequential")
        for group in _groups(stack):
            modules = [stack.get_submodule(name) for name in group]
            pooled = any("pool" in type(module).__name__.lower() for module in modules)
            if pooled:
                continue
            beside = next(modules[0].parameters())
            scale = change.number("scale") or nn.Parameter(beside.new_zeros(()))
            skip = Skip(modules, scale).train(stack.training)
            put_child(stack, group[0], skip)
            twin.adopt([scale] if isinstance(scale, nn.Parameter) else [], beside)
            for name in group[1:]:
                put_child(stack, name, nn.Identity().train(stack.training))
            done += 1
    if not done:
        raise RefusalError("no part of the network keeps its shape: there is nothing to skip")


KIND = Kind(propose, apply)
