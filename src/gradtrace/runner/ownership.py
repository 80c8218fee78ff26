"""Which model does a parameter belong to, of all the modules that are alive?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.runner.anatomy import named_parameters, named_parts

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from torch import nn


def owners(modules: Sequence[nn.Module], called: nn.Module | None = None) -> dict[int, nn.Module]:
    """By the identity of a parameter: the outermost module that it belongs to.

    Of several the one that has most, ``net`` and not the ``net[:2]`` that is called; of equals, whose part is called.
    """
    held = [(root, {id(parameter) for _, parameter in named_parameters(root)}) for root in _outermost(modules)]
    held.sort(key=lambda one: any(part is called for _, part in named_parts(one[0])))  # the last one counts
    by_parameter: dict[int, list[set[int]]] = {}
    for _, own in held:
        for key in own:
            by_parameter.setdefault(key, []).append(own)
    whole = [(root, own) for root, own in held if own and not any(own < one for one in by_parameter[next(iter(own))])]
    return {key: root for root, own in whole for key in own}


def _outermost(modules: Collection[nn.Module]) -> list[nn.Module]:
    """Those that are part of no other."""
    inner: set[int] = set()
    for module in modules:
        if id(module) not in inner:
            inner |= {id(part) for _, part in named_parts(module)} - {id(module)}
    return [module for module in modules if id(module) not in inner]
