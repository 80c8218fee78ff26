"""Was the backward pass of a step ago finite, on a device that the host must not wait for?

The verdict on a pass travels to the host behind it, and is asked for just before the optimizer moves the same weights
again: by then the device is busy with the next pass, so that nobody waits for anybody. Until then all is held that it
takes to run the pass again: its calls, and the weights as they were, copied on the device before the optimizer's step.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from gradtrace.monitor.statistics.norms import plain
from gradtrace.monitor.statistics.transfer import Transfer
from gradtrace.tape.private import foreach

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor
    from torch.optim import Optimizer

    from gradtrace.monitor.nonfinite.birthplace import Passage
    from gradtrace.monitor.watched import Watched

    Bad = tuple[Passage, Mapping[int, Tensor]] | None
    """A pass that was not finite, and what weights were that have moved since, by the parameter's identity."""

MOST_KEPT_BYTES = 256 * 2**20
"""Of trained weights. The steps of larger models are so long that waiting once in each does not matter."""

MOST_WAITING = 8
"""Passes. A device that is farther behind than the last of them has work to do while the host waits."""


def is_ahead(device: torch.device) -> bool:
    """Whether the host runs ahead of `device`, and would have to wait for a number."""
    return device.type != "cpu"


@torch.no_grad()
def verdict(roots: Sequence[Tensor], gradient: Tensor | None, norms: Tensor | None) -> Tensor:
    """[3], on the device: above 0 if a root, the gradient or a norm is not finite; above 0 if a root is not; the loss.

    >>> one, bad = torch.ones(2), torch.tensor([1.0, torch.inf])
    >>> [v.tolist() for v in (verdict([one], bad, None), verdict([bad], one, None), verdict([one], one, bad))]
    [[1.0, 0.0, 2.0], [1.0, 1.0, inf], [1.0, 0.0, 2.0]]
    """
    device = roots[0].device
    whole = torch.stack([root.detach().float().sum().to(device) for root in roots]).sum()
    in_loss = torch.stack([(~torch.isfinite(root)).any().to(device) for root in roots]).any()
    found = in_loss
    if gradient is not None:
        found = found | (~torch.isfinite(plain(gradient))).any().to(device)
    if norms is not None:
        found = found | torch.isinf(norms).any().to(device)
    return torch.stack([found.float(), in_loss.float(), whole])


@dataclass(frozen=True, slots=True)
class World:
    """Switches of modules and parameters that a training turns between its passes."""

    modules: Sequence[nn.Module]
    training: tuple[bool, ...]
    parameters: Sequence[Tensor]
    requires_grad: tuple[bool, ...]

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """As they were, until leaving."""
        now = World.of(self.modules, self.parameters)
        self._set()
        try:
            yield
        finally:
            now._set()

    @classmethod
    def of(cls, modules: Sequence[nn.Module], parameters: Sequence[Tensor]) -> World:
        """As they are."""
        training = tuple([module.training for module in modules])
        return cls(modules, training, parameters, tuple([parameter.requires_grad for parameter in parameters]))

    def _set(self) -> None:
        for module, training in zip(self.modules, self.training, strict=True):
            if module.training is not training:
                module.training = training
        for parameter, flag in zip(self.parameters, self.requires_grad, strict=True):
            if parameter.requires_grad is not flag:
                parameter.requires_grad_(flag)


@dataclass(slots=True)
class _Kept:
    """Weights as they were before an optimizer's latest step."""

    weights: list[Tensor]
    copies: list[Tensor]
    num_passes: int
    """So many passes saw them."""


class Delayed:
    """`add` every pass, ask `before_step` of every optimizer; each passage that comes back was not finite."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._transfer = Transfer()
        self._kept: dict[int, _Kept] = {}
        self._held: list[int] = []
        """[bytes] Of the inputs of each pass that waits."""
        self._num_passes = self._num_judged = 0
        self.fits = sum(p.nbytes for p in watched.parameters if p.requires_grad) <= MOST_KEPT_BYTES
        """Whether the weights are few enough to be kept."""

    @property
    def is_waiting(self) -> bool:
        """Whether any pass is."""
        return len(self._transfer) > 0

    def world(self) -> World:
        """As it is for the pass at hand."""
        return World.of(list(self._watched.whole.modules()), list(self._watched.parameters))

    def add(self, passage: Passage, found: Tensor) -> Bad:
        """A pass has been sent on its way, and behind it its `verdict`; the oldest are judged where many wait."""
        self._transfer.send((self._num_passes, passage), [found])
        self._num_passes += 1
        self._held.append(passage.nbytes)
        wait = max(0, len(self._held) - MOST_WAITING)
        while wait < len(self._held) - 1 and sum(self._held[wait:]) > MOST_KEPT_BYTES:
            wait += 1
        return self._first_bad(wait)

    def forget(self) -> None:
        """Nothing is held any longer."""
        self._transfer, self._kept, self._held = Transfer(), {}, []
        self._num_judged = self._num_passes

    def before_step(self, optimizer: Optimizer, has_closure: bool) -> Bad:
        """Its weights move once more: what of the passes that saw the kept ones? Then these are kept.

        Returns the first pass that was not finite, and the weights that have moved since, by the parameter's identity.
        """
        kept = self._kept.get(id(optimizer))
        found = self._first_bad(kept.num_passes - self._num_judged if kept is not None else 0)
        if found is None:
            self._keep(optimizer, int(has_closure))
        return found

    def at_last(self) -> Bad:
        """What of all passes so far? Waits for them."""
        return self._first_bad(len(self._transfer))

    def _first_bad(self, wait: int) -> Bad:
        for (number, passage), (found,) in self._judged(wait):
            self._num_judged = number + 1
            del self._held[0]
            if found[0] > 0.0:
                told = replace(passage, value=float(found[2]), is_finite=not found[1] > 0.0)
                return told, dict(self._moved_since(number))
        return None

    def _judged(self, wait: int) -> Iterator[tuple[tuple[int, Passage], Sequence[Tensor]]]:
        yield from self._transfer.arrived(wait)  # type: ignore[misc]

    def _moved_since(self, number: int) -> Iterator[tuple[int, Tensor]]:
        for kept in self._kept.values():
            if kept.num_passes > number:
                yield from ((id(weight), copy) for weight, copy in zip(kept.weights, kept.copies, strict=True))

    @torch.no_grad()
    def _keep(self, optimizer: Optimizer, num_to_come: int) -> None:
        """`num_to_come`: passes of a closure that will see these weights."""
        weights: list[Tensor] = [self._watched.parameters[i] for i in self._watched.held_by(optimizer)]
        if not weights:
            return
        kept = self._kept.get(id(optimizer))
        if kept is None or [id(w) for w in kept.weights] != [id(w) for w in weights]:
            kept = self._kept[id(optimizer)] = _Kept(weights, [torch.empty_like(w) for w in weights], 0)
        foreach("copy_")(kept.copies, kept.weights)
        kept.num_passes = self._num_passes + num_to_come
