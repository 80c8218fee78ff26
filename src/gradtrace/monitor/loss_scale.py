"""What is the loss at hand multiplied by? A scaler says so for each loss, and lets go of an overflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.tape.private import loss_scale_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torch.amp.grad_scaler import GradScaler


class LossScale:
    """The scaler that a training uses, if any."""

    def __init__(self) -> None:
        self.scalers_before: Sequence[GradScaler] = ()
        """Those there were when the watch began: one may have been looked up already to scale the first loss."""
        self._scaler: GradScaler | None = None
        self._num_losses = 0
        """That it has multiplied and nobody has called backward on yet."""

    @property
    def has_scaler(self) -> bool:
        """Whether the training uses one."""
        return self._scaler is not None

    @property
    def of_loss(self) -> Tensor | None:
        """What the loss at hand was multiplied by; None: it was not."""
        if self._scaler is None or not self._num_losses or not self._scaler.is_enabled():
            return None
        return loss_scale_of(self._scaler)

    @property
    def of_gradients(self) -> Tensor | None:
        """What gradients are still multiplied by when a step is over that no optimizer of torch's makes."""
        return loss_scale_of(self._scaler) if getattr(self._scaler, "leaves_gradients", False) else None

    @property
    def is_least(self) -> bool:
        """Whether the scale has come down to 1: a smaller one would not help."""
        scale = loss_scale_of(self._scaler)
        return scale is not None and float(scale) <= 1.0

    def multiplied(self, scaler: GradScaler, num_losses: int = 1) -> None:
        """So many losses."""
        self._scaler = scaler
        self._num_losses += num_losses

    def before_first_backward(self) -> None:
        """A scaler that nobody saw multiply the first loss has made its scale by now."""
        for scaler in self.scalers_before if self._scaler is None else ():
            if loss_scale_of(scaler) is not None:
                self.multiplied(scaler)
        self.scalers_before = ()

    def backward(self) -> None:
        """A loss has been used."""
        self._num_losses = max(0, self._num_losses - 1)

    def end_step(self) -> None:
        """Losses that nobody called backward on are forgotten."""
        self._num_losses = 0
