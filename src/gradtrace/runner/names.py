"""What does the script call what it trains? By attribute, by variable, and else by class.

self.encoder(x); self.decoder(z)     called apart, within one module: "encoder", "decoder"
G(z); D(x)                           "G", "D"
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from gradtrace.runner.anatomy import named_parameters, named_parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

_PACKAGE = str(Path(__file__).resolve().parents[1]) + "/"


def label_models(roots: Sequence[nn.Module], living: Sequence[nn.Module]) -> dict[str, nn.Module]:
    """`roots` by label; a single one that is part of no other needs none."""
    paths = _paths(roots, living)
    if len(roots) == 1 and not paths:
        return {"": roots[0]}
    variables = _variables()
    labelled: dict[str, nn.Module] = {}
    for root in roots:
        name = paths.get(id(root)) or variables.get(id(root)) or type(root).__name__
        labelled[_unique(name, labelled)] = root
    return labelled


def name_leftovers(
    leaves: Sequence[torch.Tensor], living: Sequence[nn.Module]
) -> tuple[dict[str, nn.Module], tuple[str, ...]]:
    """Parameters that are trained and belong to no called module, each in a module of its own; notes on them all."""
    if not leaves:
        return {}, ()
    owners = {id(p): name for module in living for name, p in named_parameters(module)}
    variables = _variables()
    holders: dict[str, nn.Module] = {}
    nameless = 0
    for leaf in leaves:
        if not isinstance(leaf, nn.Parameter):
            nameless += 1
            continue
        name = owners.get(id(leaf)) or variables.get(id(leaf)) or f"parameter_{len(holders)}"
        label, _, last = name.rpartition(".")
        holder = nn.Module()
        holder.register_parameter(last, leaf)
        holders[_unique(label or last, holders)] = holder
    notes = []
    if holders:
        names = ", ".join(list(holders)[:3]) + (f" and {len(holders) - 3} more" if len(holders) > 3 else "")
        notes.append(f"trained, but in no module that was called: {names} (gradients are watched, traces miss them)")
    if nameless:
        notes.append(f"not watched: {nameless} trained tensor{'s' if nameless > 1 else ''} outside of any nn.Parameter")
    return holders, tuple(notes)


def _paths(roots: Sequence[nn.Module], living: Sequence[nn.Module]) -> dict[int, str]:
    """Where the roots sit within one module that holds them all and was never called itself; {} without one."""
    wanted = {id(root) for root in roots}
    best: dict[int, str] = {}
    size = sys.maxsize
    for module in living:
        parts = list(named_parts(module))
        within = {id(part): name for name, part in parts if id(part) in wanted and name}
        if len(within) == len(wanted) and len(parts) < size:
            best, size = within, len(parts)
    return {} if any(_is_wrapper(name) for name in best.values()) else best


def _is_wrapper(path: str) -> bool:
    """DistributedDataParallel's and a compiled model's name for what they wrap tell a reader nothing."""
    return path in ("module", "_orig_mod")


def _variables() -> dict[int, str]:
    """Names of modules and parameters in the frames of the script, those of the innermost frame first."""
    found: dict[int, str] = {}
    for scope in _scopes():
        for name, value in scope.items():
            if issubclass(type(value), (nn.Module, nn.Parameter)) and not name.startswith("_"):
                found.setdefault(id(value), name)
    return found


def _scopes() -> Iterator[dict[str, Any]]:
    frame = sys._getframe()
    while (outer := frame.f_back) is not None:
        frame = outer
        file = frame.f_code.co_filename
        if not file.startswith(_PACKAGE) and "site-packages" not in file:
            yield dict(frame.f_locals)
            yield dict(frame.f_globals)
            owner = frame.f_locals.get("self")
            if owner is not None and hasattr(type(owner), "__dict__"):
                yield dict(getattr(owner, "__dict__", {}))


def _unique(name: str, taken: dict[str, nn.Module]) -> str:
    """`name`, or `name_2` and so on."""
    number, label = 1, name
    while label in taken:
        number += 1
        label = f"{name}_{number}"
    return label
