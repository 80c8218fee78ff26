"""The repair: what was changed on copies, how each copy trained beside the unchanged network, and what that proves.

Shares are Shapley values in decades: with v(S) the decades that are lost when the factors S are taken away,

    phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! (v(S) - v(S + i)),     sum_i phi_i = v({}) - v(all)

L. S. Shapley, A value for n-person games (1953), equation 12.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradtrace.records.change import OBJECTIVE, Change
from gradtrace.records.finding import Diagnosis
from gradtrace.records.shown import Columns, Kept, counted, rendered
from gradtrace.records.vocabulary import Factor, StrEnum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Role(StrEnum):
    """What a trial is for."""

    ORIGINAL = "original"
    """The network as it came."""
    CANDIDATE = "candidate"
    """A change, or a pair of them, that is meant to help."""
    PLACEBO = "placebo"
    """A change that cannot help but by chance: a fresh draw of the same initialisation."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One training of one copy."""

    seed: int
    curve: tuple[tuple[int, float], ...]
    """(step, loss as `Repair.measure` has it) from before the first step to the end."""
    held_out: float | None = None
    first_layer_ratio: float | None = None
    """Median |update| / |weight| of a step at the first layer."""
    nonfinite_steps: int = 0
    seconds_per_step: float = 0.0

    @property
    def start(self) -> float:
        """Loss before the first step."""
        return self.curve[0][1]

    @property
    def end(self) -> float:
        """Loss after the last one; inf where it is not finite."""
        return self.curve[-1][1]


@dataclass(frozen=True, slots=True)
class Difference:
    """Of two trials, seed by seed: mean and 95 % interval of log(loss / loss), or of the plain difference."""

    mean: float
    low: float
    high: float
    is_ratio: bool = True
    """Whether it is of logarithms; else, where losses are negative, of the losses as they are, the far ones cut."""

    @property
    def better(self) -> bool:
        """Whether the whole interval lies below zero."""
        return self.high < 0.0


@dataclass(frozen=True, slots=True)
class Trial:
    """A change applied to copies and trained: what training felt."""

    title: str
    role: Role
    changes: tuple[Change, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    """One a seed; of a trial that was given up early, the short run."""
    whole: bool = False
    """Whether it was trained for all steps with all seeds."""
    rate: float | None = None
    """Learning rate of our own optimizer, the best of this network; None: an optimizer was given."""
    moved_decades: float | None = None
    """By how much the gradient at the first layer moved, measured before the first step."""
    levels: tuple[tuple[str, float], ...] = ()
    """(layer, decades of its gradient from the loss on), measured before the first step, the loss first."""
    against_original: Difference | None = None
    against_placebo: Difference | None = None
    confirmation: tuple[Outcome, ...] = ()
    """Trainings on seeds that had no part in the choice."""
    confirmed: Difference | None = None
    """Against the unchanged network on these; None: it was not asked."""
    proven: bool = False
    verdict: str = ""
    """One sentence."""
    ills: tuple[str, ...] = ()
    """Findings that the unchanged network does not have."""
    refused: str = ""
    """Why it could not be tried, or ''."""
    diff: str = ""
    """The unified diff of the user's file, or ''."""
    no_diff: str = ""
    """Why there is none, or ''."""

    @property
    def end(self) -> float | None:
        """Median loss over the seeds after the last step."""
        return statistics.median(outcome.end for outcome in self.outcomes) if self.outcomes else None

    @property
    def start(self) -> float | None:
        """Median loss over the seeds before the first step."""
        return statistics.median(outcome.start for outcome in self.outcomes) if self.outcomes else None

    @property
    def held_out(self) -> float | None:
        """Median loss over the seeds on batches that nothing was trained on; None without any."""
        known = [outcome.held_out for outcome in self.outcomes if outcome.held_out is not None]
        return statistics.median(known) if known else None

    @property
    def first_layer_ratio(self) -> float | None:
        """Median over the seeds of |update| / |weight| at the first layer."""
        known = [outcome.first_layer_ratio for outcome in self.outcomes if outcome.first_layer_ratio is not None]
        return statistics.median(known) if known else None

    @property
    def predicted_decades(self) -> float | None:
        """What its changes should move together."""
        given = [c.predicted_decades for c in self.changes if c.predicted_decades is not None]
        return sum(given) if given else None

    @property
    def code(self) -> str:
        """Lines of plain torch that do the same."""
        return "\n".join(change.code for change in self.changes if change.code)

    def apply(self, model: Any, loss_fn: Any, optimizer: Any = None, *, seed: int = 0) -> tuple[Any, Any, Any]:
        """New objects with the change in; the arguments are untouched.

        Raises:
            InputError: the change does not fit this model, or the model cannot be copied.
        """
        made: tuple[Any, Any, Any] = rendered(self, "apply", model, loss_fn, optimizer, seed=seed)
        return made


@dataclass(frozen=True, slots=True)
class Share:
    """The decades of the deficit that one factor explains."""

    factor: Factor
    decades: float


@dataclass(frozen=True, slots=True)
class Shares:
    """The deficit of the earliest layer against the latest, and whose it is."""

    deficit: float
    """Decades between the late layer's gradient and the first's; negative: lost."""
    shares: tuple[Share, ...]
    """The largest first; with `remaining` they sum to `deficit`."""
    remaining: float
    """Decades left when all of these factors are taken away."""
    first: str = ""
    late: str = ""

    @property
    def leading(self) -> Share | None:
        """The largest that works in the direction of the deficit."""
        return next((share for share in self.shares if share.decades * self.deficit > 0.0), None)


@dataclass(frozen=True, slots=True, repr=False)
class Repair(Kept):
    """Diagnosis, shares and trials, ranked by what training felt."""

    diagnosis: Diagnosis
    shares: Shares | None
    """None where no gradient is lost or gained along the depth."""
    trials: tuple[Trial, ...]
    """Proven ones first, then by loss; the unchanged network and the placebos are among them."""
    steps: int = 0
    seeds: int = 0
    optimizer: str = ""
    """The optimizer in words; says so where none was given."""
    notes: tuple[str, ...] = ()
    title: str = ""

    @property
    def measure(self) -> str:
        """What the losses are of: the loss function that was given, or the mended one where that is no measure."""
        mended = any(change.kind == OBJECTIVE for trial in self.trials for change in trial.changes)
        return "the mended loss function" if mended else "the unchanged loss function"

    @property
    def best(self) -> Trial | None:
        """The first proven one; None: none of these helped."""
        return next((trial for trial in self.trials if trial.proven), None)

    @property
    def original(self) -> Trial | None:
        """The network as it came."""
        return next((trial for trial in self.trials if trial.role is Role.ORIGINAL), None)

    @property
    def candidates(self) -> tuple[Trial, ...]:
        """What was tried."""
        return tuple(trial for trial in self.trials if trial.role is Role.CANDIDATE)

    def __repr__(self) -> str:
        best = f"recommended: {self.best.title}" if self.best is not None else "nothing proven"
        return f"<Repair {self.title!r}: {counted(len(self.trials), 'trial')}, {best}>"

    def plot(self, *, columns: Columns = 1, axes: Axes | None = None) -> Figure:
        """Loss curves of all trials, with their bands over the seeds.

        Raises:
            InputError: nothing was trained, or matplotlib is not installed (``pip install '.[figures]'``).
        """
        figure: Figure = rendered(self, "plot", columns=columns, axes=axes)
        return figure

    def to_json(self) -> str:
        """Strict JSON, the diagnosis without the ops of its traces."""
        return str(rendered(self, "json"))
