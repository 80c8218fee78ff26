"""What the judge is shown: traces of several batches, a probe, and what a trial step or a trial run on a copy did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradtrace.records.trace import Trace


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """What one optimizer step did to one parameter (on a copy)."""

    name: str
    shape: tuple[int, ...]
    weight_norm: float
    update_norm: float
    unchanged_frac: float
    """Of the gradient's square (to first order: of what a step of descent gains), the fraction on entries that the step
    left exactly as they were; the smaller one of the first step and the last of the trial."""

    @property
    def ratio(self) -> float:
        """|update| / |weight|; infinite for a weight of zeros."""
        return self.update_norm / self.weight_norm if self.weight_norm else float("inf")


@dataclass(frozen=True, slots=True)
class OptimizerStats:
    """One optimizer as it was given."""

    kind: str
    """Class name, as ``SGD``."""
    adaptive: bool
    """Whether its step is (nearly) independent of the gradient's scale: Adam and its kin."""
    eps: float
    learning_rate: float
    """The largest of its groups."""
    parameters: tuple[str, ...]
    """Names of the model's parameters that it holds."""
    num_foreign: int = 0
    """Parameters that it holds and that are not the model's."""
    weight_decay: float = 0.0
    """What it adds to the gradient, as a multiple of the weight, before it scales (Adam, not AdamW); the largest."""
    held_back: float = 1.0
    """By what a schedule holds the rate below its own base just now (warm-up, decay); 1 without one."""
    lengthens: float = 1.0
    """Up to how many times as long as its first step a later one is under the same gradient: 1 / (1 - momentum)."""
    unowned: tuple[str, ...] = ()
    """Of `parameters`, each an ``nn.Parameter``, those that no module owns any longer, or ever did."""

    @property
    def divides_by_squares(self) -> bool:
        """Whether it divides by the root of a mean of squares, as Adam does: not by a maximum, and not by itself."""
        return self.adaptive and self.eps > 0.0 and self.kind.lower() not in ("adamax", "muon")


@dataclass(frozen=True, slots=True)
class Training:
    """A trial run on a copy: losses before the first step and after each, and how it ended."""

    losses: tuple[float, ...]
    updates: tuple[UpdateStats, ...]
    """Of the first step."""
    asked: int = 0
    """Steps the user asked for; 0: a trial of our own to weigh the learning rate."""
    after: Trace | None = None
    """Trace of the copy after the last step, or at the first non-finite loss or gradient."""
    broke_at: int | None = None
    """The step at which loss or gradient were first not finite."""
    failure: str = ""
    """Why the trial could not be run, or ''."""
    usual_loss: float = 0.0
    """The largest |loss| of the batches before any step: what a loss that starts at zero by chance is held against."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps taken: there is a loss before the first and one after each."""
        return max(len(self.losses) - 1, 0)


@dataclass(frozen=True, slots=True)
class Exhibit:
    """Everything a verdict may rest on."""

    traces: tuple[Trace, ...]
    probe: Trace | None = None
    optimizers: tuple[OptimizerStats, ...] = ()
    training: Training | None = None
    followed: Training | None = None
    """The same for more steps, where a verdict rests on whether training mends what the traces show."""
    tenth: Training | None = None
    """The same at a tenth of the learning rate, where the rate is suspected."""
    unscheduled: Training | None = None
    """One step at the rate that a schedule holds back, where steps at the present one are rounded away."""
    faster: Training | None = None
    """At a rate that makes the steps usual ones, where those of the given one do next to nothing."""
    unseen: Training | None = None
    """The same for as many steps on all batches but the last, on which it is traced then: learnt, and not memorised."""
    step: int = 0
    """Optimizer steps that the traced model has made already, as far as they were seen."""
    summed_over: float | None = None
    """By what the loss of half a batch must be multiplied to give that of the whole: 1 for a mean, 2 for a sum."""
    copies: tuple[str, ...] = ()
    """Weights whose rows are equal bit for bit, with rows of the gradient that are equal as well, and not zero."""
    learning: tuple[str, ...] = ()
    """Parameters that other backward passes than those traced brought a gradient (a GAN has two in a step)."""
    refusals: tuple[str, ...] = field(default=())
