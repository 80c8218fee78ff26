"""How is the same script another training? By its seed: set once before it begins, and added to those that it sets.

Seed 0 leaves a script's own seeds as they are: its first training is the one that the user knows.
"""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING, Any

from gradtrace.runner.imports import after_import

if TYPE_CHECKING:
    from collections.abc import Callable

_RANGE = 2**32
"""NumPy's legacy generator takes no larger seed."""


class Seeds:
    """The generators of Python, NumPy and torch, each from the moment that it is there."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.own: list[int] = []
        """Those that the script has set, in order, each once."""

    def begin(self) -> None:
        """Before the script's first line."""
        random.seed(self.number)
        random.seed = self._shifted(random.seed)
        after_import("numpy", self._numpy)
        after_import("torch", self._torch)

    def _numpy(self) -> None:
        numpy: Any = sys.modules["numpy"]
        numpy.random.seed(self.number)
        numpy.random.seed = self._shifted(numpy.random.seed)

    def _torch(self) -> None:
        torch: Any = sys.modules["torch"]
        torch.manual_seed(self.number)
        torch.manual_seed = torch.random.manual_seed = self._shifted(torch.manual_seed)
        torch.cuda.manual_seed = self._shifted(torch.cuda.manual_seed)
        torch.cuda.manual_seed_all = self._shifted(torch.cuda.manual_seed_all)

    def _shifted(self, own: Callable[..., Any]) -> Callable[..., Any]:
        def seed(*args: Any, **kwargs: Any) -> Any:
            if not args and len(kwargs) == 1:
                args, kwargs = tuple(kwargs.values()), {}
            if args and isinstance(args[0], int) and not isinstance(args[0], bool):
                if args[0] not in self.own:
                    self.own.append(args[0])
                if self.number:
                    args = ((args[0] + self.number) % _RANGE, *args[1:])
            return own(*args, **kwargs)

        return seed
