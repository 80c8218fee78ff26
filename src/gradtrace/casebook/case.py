"""What is a case? A small network whose illness, or health, is known by mathematics, and where that is known from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

from gradtrace.records.vocabulary import Cause, Symptom

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

Accepted = tuple[Symptom, Cause]


@dataclass(frozen=True, slots=True)
class Setup:
    """What `gradtrace.check` takes."""

    model: nn.Module
    loss_fn: Callable[[Any, Any], Tensor]
    """(model, batch) -> scalar."""
    batches: list[Any]
    """Two or more."""
    optimizer: Optimizer | Sequence[Optimizer] | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A network and the truth about it."""

    name: str
    build: Callable[[], Setup]
    """Seeded inside; leaves the global random state alone. Its docstring names the illness."""
    symptom: Symptom
    cause: Cause
    where: tuple[str, ...]
    """Module or parameter paths, any of which may lead the path of the first place to blame; () for anywhere."""
    source: str
    """A paper, a forum question, a bug benchmark."""
    steps: int = 0
    """Optimizer steps after which it shows; 0: it is there from the start."""
    accumulate: int = 1
    """Batches per optimizer step."""
    also: tuple[Accepted, ...] = ()
    """Other defensible verdicts."""

    @property
    def accepted(self) -> tuple[Accepted, ...]:
        """Every defensible (symptom, cause), the truth itself first."""
        return ((self.symptom, self.cause), *self.also)


def healthy(name: str, build: Callable[[], Setup], source: str, *, steps: int = 0, accumulate: int = 1) -> Case:
    """A case without fault."""
    return Case(name, build, Symptom.HEALTHY, Cause.NONE, (), source, steps=steps, accumulate=accumulate)


def seeded(build: Callable[[], Setup]) -> Callable[[], Setup]:
    """Run `build` with seed 0 and put the global random state back."""

    @wraps(build)
    def run() -> Setup:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build()

    return run
