"""What did a moment of training do to each of the demo's networks?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gradtrace.report.words import short

if TYPE_CHECKING:
    from collections.abc import Sequence


class Trained(Protocol):
    """What is told of one network; changes are |W - W at the start| / |W at the start|."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def first_loss(self) -> float: ...  # noqa: D102
    @property
    def last_loss(self) -> float: ...  # noqa: D102
    @property
    def accuracy_frac(self) -> float: ...  # noqa: D102
    @property
    def first_layer_change(self) -> float: ...  # noqa: D102
    @property
    def last_layer_change(self) -> float: ...  # noqa: D102


def compare(networks: Sequence[Trained], num_steps: int) -> str:
    """A table of at most 80 columns, one network a row."""
    lines = [
        f"After {num_steps} steps of the same optimizer (change of weights: |new - old| / |old|):",
        "",
        f"{'':<24} {'loss':>12} {'accuracy':>9}   {'change: first':>14} {'last layer':>11}",
    ]
    for network in networks:
        loss = f"{network.first_loss:.2f} -> {network.last_loss:.2f}"
        lines.append(
            f"{network.name:<24} {loss:>12} {network.accuracy_frac:>9.0%}   "
            f"{short(network.first_layer_change):>14} {short(network.last_layer_change):>11}"
        )
    return "\n".join(lines)
