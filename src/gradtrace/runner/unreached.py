"""Why does nothing come to what an optimizer holds? Of a script whose training was not found.

fast = copy.deepcopy(model); loss(fast).backward()    the copy's parameters are leaves of their own: they get all
grads = torch.func.grad(loss)(params)                 gradients are returned, and `.grad` stays None
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


class Unreached:
    """Is told of what some passes reached, and of what some steps found.

    >>> import torch
    >>> held, other = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    >>> seen = Unreached()
    >>> seen.reached([other]); seen.stepped([held])
    []
    >>> seen.num_alike, seen.has_gradients
    (1, False)
    """

    def __init__(self) -> None:
        self.num_alike = 0
        """Parameters that a pass reached, all of the shapes of what an optimizer holds and none of that itself."""
        self.has_gradients = False
        """Whether anything that an optimizer held had one when it stepped."""
        self._shapes: list[torch.Size] = []
        """Of the parameters that the latest pass reached."""

    def reached(self, leaves: Sequence[torch.Tensor]) -> None:
        """By a backward pass."""
        self._shapes = [leaf.shape for leaf in leaves if isinstance(leaf, nn.Parameter)]

    def stepped(self, held: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """By an optimizer; which of what it holds have a gradient."""
        found = [one for one in held if one.grad is not None]
        self.has_gradients |= bool(found)
        if not found and {*self._shapes} <= {one.shape for one in held}:
            self.num_alike = len(self._shapes)
        return found
