"""What is a living module made of? Read from where torch keeps it, since any method may be the script's own.

``parameters(self, learning_rate)`` of a script's class answers something else than ``nn.Module.parameters`` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.tape.private import children_of, parameters_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


def named_parts(module: nn.Module, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, nn.Module]]:
    """The module ('') and all that is in it, by path, each once, the outer before the inner.

    >>> from torch import nn
    >>> [name for name, _ in named_parts(nn.Sequential(nn.ReLU(), nn.Sequential(nn.Tanh())))]
    ['', '0', '1', '1.0']
    """
    seen = set() if seen is None else seen
    if id(module) in seen:
        return
    seen.add(id(module))
    yield path, module
    for name, child in children_of(module).items():
        if child is not None:
            yield from named_parts(child, f"{path}.{name}" if path else name, seen)


def named_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Those of all parts, by path; a shared one by each of its paths."""
    for path, part in named_parts(module):
        for name, parameter in parameters_of(part).items():
            if parameter is not None:
                yield f"{path}.{name}" if path else name, parameter
