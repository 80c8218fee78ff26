"""Which module holds a parameter? By its name, of which any part may have dots: ``gan.G.0.weight`` of ``gan.G``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.records.parameter_name import module_in
from gradtrace.tape.private import parameters_of

if TYPE_CHECKING:
    from torch import nn


class Holders:
    """The modules of a model by path, as they are when this is made.

    >>> import torch
    >>> whole, own = torch.nn.Module(), torch.nn.Linear(2, 1)
    >>> whole._modules["gan.G"], whole._parameters["params['0.weight']"] = own, own.weight
    >>> holders = Holders(whole)
    >>> holders.of("gan.G.weight")[0], holders.of("params['0.weight']")[0]
    ('gan.G', '')
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules())

    def of(self, name: str) -> tuple[str, nn.Module]:
        """Path and module; by the name alone where none holds it under that name any more (it is sharded, say)."""
        path = name
        while path:
            path = path.rpartition(".")[0]
            module = self._modules.get(path)
            if module is not None and name[len(path) :].removeprefix(".") in parameters_of(module):
                return path, module
        path = module_in(name)
        return (path, self._modules[path]) if path in self._modules else ("", self._modules[""])
