"""The numbers of one step, gathered between its first backward pass and its last optimizer step.

A gradient is measured when its backward passes are over (as many as the step before had) and before anyone clips it. A
gradient whose version has changed until the optimizer is called was clipped or unscaled: it is measured again there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from gradtrace.monitor.norms import norms
from gradtrace.records.run import Scalar, Series

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from gradtrace.monitor.watched import Watched


class Tally:
    """All tensors stay on their device until `packed` is sent."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._losses: list[Tensor] = []
        self._norms: Tensor | None = None
        self._clipped: Tensor | None = None
        self._weights: Tensor | None = None
        self._before: list[Tensor] | None = None
        self._versions: dict[int, int] = {}
        self.num_backwards = 0

    @property
    def has_loss(self) -> bool:
        """Whether backward was called on a single number."""
        return bool(self._losses)

    @property
    def is_measured(self) -> bool:
        """Whether any gradient's norm is known."""
        return self._norms is not None

    def add_loss(self, root: Tensor, scale: Tensor | None) -> None:
        """A backward pass from `root`, which a scaler multiplied by `scale`."""
        self.num_backwards += 1
        if root.numel() == 1:
            loss = root.detach().float().reshape(())
            self._losses.append(loss / scale.to(loss.device).reshape(()) if scale is not None else loss)

    def measure_gradients(self, scale: Tensor | None) -> Tensor:
        """Norms of all gradients that were not measured in this step yet; returns the norm of all together."""
        gradients = [parameter.grad for parameter in self._watched.parameters]
        found = norms(gradients)
        found = found if scale is None else found / scale.to(found.device)
        self._norms = found if self._norms is None else torch.where(torch.isnan(self._norms), found, self._norms)
        self._versions |= {i: g._version for i, g in enumerate(gradients) if g is not None}
        return total(self._norms)

    def before_step(self, columns: Sequence[int]) -> None:
        """An optimizer is about to move the parameters of `columns`."""
        gradients = {i: self._watched.parameters[i].grad for i in columns}
        changed = any(g is not None and self._versions.get(i) != g._version for i, g in gradients.items())
        if not changed:
            return
        found = norms([gradients.get(i) for i in range(len(self._watched.parameters))])
        if any(i in self._versions for i in columns):
            self._clipped = total(found)
        self._norms = found if self._norms is None else torch.where(torch.isnan(self._norms), found, self._norms)

    @torch.no_grad()
    def remember_weights(self) -> None:
        """So that `packed` can tell by how much the steps moved them."""
        self._weights = norms(list(self._watched.parameters))
        self._before = [parameter.detach().clone() for parameter in self._watched.parameters]

    @torch.no_grad()
    def packed(self, scale: Tensor | None) -> Tensor:
        """[len(Scalar) + len(Series) * parameters] in the order of `Scalar` and `Series`; NaN where not measured."""
        device = self._norms.device if self._norms is not None else torch.device("cpu")
        absent = torch.full((len(self._watched.parameters),), math.nan, device=device)
        gradient = self._norms if self._norms is not None else absent
        weight = self._weights if self._weights is not None else absent
        update = absent
        if self._before is not None:
            update = norms(torch._foreach_sub([p.detach() for p in self._watched.parameters], self._before)) / weight
        whole = total(gradient) if self._norms is not None else absent.new_tensor(math.nan)
        scalars = {
            Scalar.LOSS: torch.stack([loss.to(device) for loss in self._losses]).sum() if self._losses else None,
            Scalar.LEARNING_RATE: absent.new_tensor(self._watched.learning_rate()),
            Scalar.GRADIENT_NORM: whole,
            Scalar.CLIPPED_NORM: self._clipped if self._clipped is not None else whole,
            Scalar.LOSS_SCALE: scale.to(device, torch.float32).reshape(()) if scale is not None else None,
        }
        series = {Series.GRADIENT_NORM: gradient, Series.WEIGHT_NORM: weight, Series.UPDATE_RATIO: update}
        missing = absent.new_tensor(math.nan)
        first = torch.stack([missing if scalars[name] is None else scalars[name] for name in Scalar])  # type: ignore[misc]
        return torch.cat([first, *(series[name].to(device) for name in Series)])


def total(each: Tensor) -> Tensor:
    """The norm of all together; parameters without a gradient (NaN) do not count."""
    whole: Tensor = torch.linalg.vector_norm(torch.where(torch.isnan(each), torch.zeros_like(each), each))
    return whole
