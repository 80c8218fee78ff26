"""What does the script call what it trains? By variable, and else by class.

G(z); D(x)                           "G", "D"
x @ layers[0].weight                 "layers[0].weight"
"""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gradtrace.monitor.watched import unused_name
from gradtrace.runner.anatomy import named_parameters
from gradtrace.runner.loop_variables import bound_by_loops, bound_by_loops_in
from gradtrace.tape.private import children_of, parameters_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEEPEST, MOST_OBJECTS = 4, 20_000
"""[levels, objects] How far a tensor's name is looked for."""

_PACKAGE = str(Path(__file__).resolve().parents[1]) + "/"


def label_models(roots: Sequence[nn.Module], *, is_alone: bool) -> dict[str, nn.Module]:
    """The models of `roots` by label, that of a variable or else of the class; a single one that `is_alone` needs none.

    What a library puts around a model (a solver, for the time of a call) has no name in the script: the model within.
    """
    candidates = [_whole_parts(root) for root in roots]
    if len(roots) == 1 and is_alone and len(candidates[0]) == 1:
        return {"": roots[0]}
    variables = _names_of({id(one) for parts in candidates for one in parts})
    labelled: dict[str, nn.Module] = {}
    for root, parts in zip(roots, candidates, strict=True):
        model = next((one for one in parts if id(one) in variables), root)
        name = variables.get(id(model)) or type(model).__name__
        labelled[unused_name(name, {*labelled})] = model
    return {"": next(iter(labelled.values()))} if len(roots) == 1 and is_alone else labelled


def _whole_parts(root: nn.Module) -> list[nn.Module]:
    """`root`, and what within it holds all its parameters, the outermost first."""
    found = [root]
    while not any(one is not None for one in parameters_of(found[-1]).values()):
        inner = [one for one in children_of(found[-1]).values() if one is not None and any(named_parameters(one))]
        if len(inner) != 1:
            break
        found.append(inner[0])
    return found


def name_tensors(leaves: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors that are trained and belong to no module, by the script's own names: ``W``, ``layers[0].weight``."""
    wanted = {id(leaf) for leaf in leaves}
    names = _names_of(wanted)
    named: dict[str, torch.Tensor] = {}
    for number, leaf in enumerate(leaves):
        named[unused_name(names.get(id(leaf), f"tensor_{number}"), {*named})] = leaf
    return named


def _names_of(wanted: set[int]) -> dict[int, str]:
    """Where the script holds them, as it would write it; the innermost frame and the shortest way first.

    The variable of a loop comes last: `p` is but one of the `layers` that the loop went through.
    """
    scopes = list(_scopes())
    found = _found_from([(n, v) for scope, loops in scopes for n, v in scope.items() if n not in loops], wanted)
    if len(found) < len(wanted):
        missing = wanted - found.keys()
        found |= _found_from([(n, v) for scope, loops in scopes for n, v in scope.items() if n in loops], missing)
    return found


def _found_from(variables: Sequence[tuple[str, Any]], wanted: set[int]) -> dict[int, str]:
    found: dict[int, str] = {}
    waiting = deque((name, value, 0) for name, value in variables if not name.startswith("_"))
    seen: set[int] = set()
    while waiting and len(found) < len(wanted) and len(seen) < MOST_OBJECTS:
        name, value, depth = waiting.popleft()
        if id(value) in wanted and name not in ("self", "cls"):  # which says nothing outside of its class
            found.setdefault(id(value), name)
        if id(value) in seen or depth == DEEPEST:
            continue
        seen.add(id(value))
        waiting += [(f"{name}{place}", inner, depth + 1) for place, inner in contents(value)]
    return found


def contents(value: Any) -> list[tuple[str, Any]]:
    """(how it is got at, what it is) of what a list, dict or object of the script's holds."""
    kind = type(value)
    if kind in (list, tuple):
        return [(f"[{i}]", inner) for i, inner in enumerate(value)]
    if kind is dict:
        return [(f"[{key!r}]", inner) for key, inner in value.items() if isinstance(key, str | int)]
    if (
        issubclass(kind, (torch.Tensor, ModuleType, type, FunctionType, torch.optim.Optimizer))
        or kind.__module__ == "builtins"
    ):
        return []
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return []
    if issubclass(kind, nn.Module):  # as the script gets at them, and not where torch keeps them
        parts = {**children_of(value), **parameters_of(value)}
        inside = [(f"[{key}]" if key.isdecimal() else f".{key}", inner) for key, inner in parts.items()]
        return inside + [(f".{key}", inner) for key, inner in dict(attributes).items() if not key.startswith("_")]
    return [(f".{key}", inner) for key, inner in dict(attributes).items() if isinstance(key, str)]


def _scopes() -> Iterator[tuple[dict[str, Any], frozenset[str]]]:
    """Variables, and which of them loops bind."""
    frame = sys._getframe()
    while (outer := frame.f_back) is not None:
        frame = outer
        file = frame.f_code.co_filename
        if not file.startswith(_PACKAGE) and "site-packages" not in file:
            yield dict(frame.f_locals), bound_by_loops(frame.f_code)
            yield _module_scope(frame.f_globals)
            owner = frame.f_locals.get("self")
            if owner is not None and hasattr(type(owner), "__dict__"):
                yield dict(getattr(owner, "__dict__", {})), frozenset()
    main = sys.modules.get("__main__")  # what a script that has ended leaves behind
    if main is not None:
        yield _module_scope(vars(main))


def _module_scope(variables: dict[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    return dict(variables), bound_by_loops_in(variables.get("__file__"))
