"""Was the backward pass of a step ago finite, on a device that the host must not wait for?

The verdict on a pass travels to the host behind it, and is asked for just before the optimizer moves the same weights
again: by then the device is busy with the next pass, so that nobody waits for anybody. Until then all is held that it
takes to run the pass again: its calls, and the weights as they were, copied on the device before the optimizer's step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from gradtrace.monitor.ferry import Ferry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor
    from torch.optim import Optimizer

    from gradtrace.monitor.flight import Passage
    from gradtrace.monitor.watched import Watched

MOST_KEPT_BYTES = 256 * 2**20
"""Of trained weights. The steps of larger models are so long that waiting once in each does not matter."""


def is_ahead(device: torch.device) -> bool:
    """Whether the host runs ahead of `device`, and would have to wait for a number."""
    return device.type != "cpu"


@torch.no_grad()
def verdict(loss: Tensor, gradient: Tensor | None, norms: Tensor | None) -> Tensor:
    """[1], on the device: above 0 if the loss, a gradient or one of the norms (NaN: not measured) is not finite.

    >>> one, bad = torch.ones(2), torch.tensor([1.0, torch.inf])
    >>> [float(v) for v in (verdict(one, one, None), verdict(one, bad, None), verdict(one, one, bad))]
    [0.0, 1.0, 1.0]
    """
    found = (~torch.isfinite(loss)).any().float()
    if gradient is not None:
        found = found + (~torch.isfinite(gradient)).any().to(found)
    if norms is not None:
        found = found + torch.isinf(norms).any().to(found)
    return found.reshape(1)


@dataclass(slots=True)
class _Kept:
    """Weights as they were before an optimizer's latest step."""

    weights: list[Tensor]
    copies: list[Tensor]
    num_passes: int
    """So many passes saw them."""


class Hindsight:
    """`add` every pass, ask `before_step` of every optimizer; each passage that comes back was not finite."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._ferry = Ferry()
        self._kept: dict[int, _Kept] = {}
        self._num_passes = self._num_judged = 0
        self.fits = sum(p.nbytes for p in watched.parameters if p.requires_grad) <= MOST_KEPT_BYTES
        """Whether the weights are few enough to be kept."""

    @property
    def is_waiting(self) -> bool:
        """Whether any pass is."""
        return len(self._ferry) > 0

    def add(self, passage: Passage, found: Tensor) -> None:
        """A pass has been sent on its way, and behind it its `verdict`."""
        self._ferry.send((self._num_passes, passage), [found])
        self._num_passes += 1

    def forget(self) -> None:
        """Nothing is held any longer."""
        self._ferry, self._kept = Ferry(), {}
        self._num_judged = self._num_passes

    def before_step(self, optimizer: Optimizer) -> tuple[Passage, Mapping[int, Tensor]] | None:
        """Its weights move once more: what of the passes that saw the kept ones? Then these are kept.

        Returns the first pass that was not finite, and the weights that have moved since, by the parameter's identity.
        """
        kept = self._kept.get(id(optimizer))
        found = self._first_bad(kept.num_passes - self._num_judged if kept is not None else 0)
        if found is None:
            self._keep(optimizer)
        return found

    def at_last(self) -> tuple[Passage, Mapping[int, Tensor]] | None:
        """What of all passes so far? Waits for them."""
        return self._first_bad(len(self._ferry))

    def _first_bad(self, wait: int) -> tuple[Passage, Mapping[int, Tensor]] | None:
        for (number, passage), (found,) in self._judged(wait):
            self._num_judged = number + 1
            if found[0] > 0.0:
                return passage, dict(self._moved_since(number))
        return None

    def _judged(self, wait: int) -> Iterator[tuple[tuple[int, Passage], Sequence[Tensor]]]:
        yield from self._ferry.arrived(wait)  # type: ignore[misc]

    def _moved_since(self, number: int) -> Iterator[tuple[int, Tensor]]:
        for kept in self._kept.values():
            if kept.num_passes > number:
                yield from ((id(weight), copy) for weight, copy in zip(kept.weights, kept.copies, strict=True))

    @torch.no_grad()
    def _keep(self, optimizer: Optimizer) -> None:
        weights: list[Tensor] = [self._watched.parameters[i] for i in self._watched.held_by(optimizer)]
        if not weights:
            return
        kept = self._kept.get(id(optimizer))
        if kept is None or [id(w) for w in kept.weights] != [id(w) for w in weights]:
            kept = self._kept[id(optimizer)] = _Kept(weights, [torch.empty_like(w) for w in weights], 0)
        torch._foreach_copy_(kept.copies, kept.weights)
        kept.num_passes = self._num_passes
