"""Which weights were made within a module's own forward pass? They are others at every pass, and nobody trains them.

Those of a new layer, or a new Parameter in the place of one that was there: a layer made late, once, has no such place.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from torch.nn.modules.module import register_module_parameter_registration_hook

from gradtrace.tape.private import parameters_of
from gradtrace.tape.source import source_of

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle


class Made:
    """Parameters that modules were given while it was open, each with its kind and its line.

    >>> import torch
    >>> made = Made()
    >>> made.begin()
    >>> layer, norm = torch.nn.Linear(2, 3), torch.nn.LayerNorm(3)
    >>> made.end()
    >>> made.name_of(layer.weight), made.name_of(torch.ones(1))
    ('Linear.weight', None)
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self._found: dict[int, tuple[Tensor, str, str]] = {}
        self._replacing: set[int] = set()
        self._before = {id(p): p for p in model.parameters()} if model is not None else {}
        self._handle: RemovableHandle | None = None

    def begin(self) -> None:
        """A module's forward pass begins."""
        if self._handle is None:
            self._handle = register_module_parameter_registration_hook(self._registered)

    def end(self) -> None:
        """It is over; more than once does no harm."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def name_of(self, leaf: Tensor) -> str | None:
        """``Linear.weight``; None: it was there before."""
        known = self._found.get(id(leaf))
        return known[1] if known is not None and known[0] is leaf else None

    def line_of(self, leaf: Tensor) -> str:
        """Where in the user's code: ``net.py:12``."""
        known = self._found.get(id(leaf))
        return known[2] if known is not None and known[0] is leaf else ""

    def replaces_another(self, leaf: Tensor) -> bool:
        """Whether it was made in the place of another parameter, and is none that the model had before."""
        return self.name_of(leaf) is not None and id(leaf) in self._replacing and id(leaf) not in self._before

    def _registered(self, module: nn.Module, name: str, parameter: Tensor | None) -> None:
        if parameter is not None:
            with contextlib.suppress(Exception):  # of ours, within a line of the user's
                self._found[id(parameter)] = parameter, f"{type(module).__name__}.{name}", source_of(sys._getframe(1))
                old = parameters_of(module).get(name)
                if old is not None and old is not parameter:
                    self._replacing.add(id(parameter))
