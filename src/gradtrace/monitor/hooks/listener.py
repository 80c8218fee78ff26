"""What hooks tell, and to whom: the interface between what happens in a training and what is done about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn
    from torch.amp.grad_scaler import GradScaler
    from torch.optim import Optimizer


class PassListener(Protocol):
    """What is told of forward and backward passes."""

    @property
    def is_tracing(self) -> bool:
        """Whether `forward_is_over` is waited for."""

    def entered(self, label: str, module: nn.Module, args: Any, kwargs: Any, function: Any = None) -> Any:
        """A watched module is called; what this returns is told to `left`.

        Or else a compiled `function`, which may call the module.
        """

    def left(self, call: Any, output: Any) -> None:
        """It returned `output`, or raised (None)."""

    def forward_is_over(self) -> None:
        """``loss.backward`` was called: what looks at functions of torch would see itself from here on."""

    def begins_at_edges(self) -> None:
        """A backward pass begins at edges of the tape alone, whose tensors are gone; nothing more is told of it."""

    def before_backward(self, roots: Sequence[Tensor], create_graph: bool) -> bool:
        """A backward pass begins; whether its end is to be told."""

    def backward_failed(self, roots: Sequence[Tensor]) -> None:
        """It raised."""

    def after_backward(self, roots: Sequence[Tensor]) -> None:
        """It ended, and gradients have arrived."""

    def loss_divided(self, by: float) -> None:
        """The gradients of a step's passes are divided: its loss was their mean, and not their sum."""

    def gradients_settled(self, module: nn.Module) -> None:
        """Whoever ran several passes has brought the gradients of `module` to what its optimizer will see."""


class StepListener(Protocol):
    """What is told of optimizers and of the scalers before them."""

    def before_step(self, optimizer: Optimizer, has_closure: bool) -> None:
        """An optimizer is about to step; with a closure its backward passes are still to come."""

    def after_step(self, optimizer: Optimizer) -> None:
        """It has stepped."""

    def scaled_by(self, scaler: GradScaler, num_losses: int) -> None:
        """A scaler has multiplied so many losses."""

    def num_steps_of(self, optimizer: Optimizer) -> int:
        """Steps that `after_step` was told of; -1: it is not watched."""

    def step_left_out(self, optimizer: Optimizer) -> None:
        """A scaler found the gradients not finite and did not let the optimizer step."""
