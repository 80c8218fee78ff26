"""A training run under watch, as numbers: one row a step (or a few old steps pooled), one column a parameter.

Old rows are pooled two by two to bound the file: a pooled row keeps the smallest and the largest value of its steps, so
that a spike of a single step survives any number of poolings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.records.entries import RunEntries
from gradtrace.records.exhibit import OptimizerStats
from gradtrace.records.run_ranks import RunRanks
from gradtrace.records.shown import Columns, Shown, Tabular, counted, rendered
from gradtrace.records.vocabulary import StrEnum

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from gradtrace.records.finding import Finding


_UNCLIPPED = 0.999
"""[fraction of the norm] Clipping that bites leaves less; rounding leaves more."""


class Scalar(StrEnum):
    """What is known of a step as a whole; the order is the order of the columns."""

    LOSS = "loss"
    """The tensor that backward was called on, unscaled; with accumulation the sum over its backward passes.

    Of several ranks the mean at steps that all of them report, and rank 0's at the others.
    """
    LEARNING_RATE = "learning_rate"
    """The largest of all groups."""
    GRADIENT_NORM = "gradient_norm"
    """Frobenius norm of all gradients together, unscaled, before clipping."""
    CLIPPED_NORM = "clipped_norm"
    """The same as the optimizer saw it."""
    LOSS_SCALE = "loss_scale"
    """Of the GradScaler; NaN without one."""


class Series(StrEnum):
    """What is known of each parameter at a step; the order is the order of the layers of the arrays."""

    GRADIENT_NORM = "gradient_norm"
    """Frobenius norm, unscaled, before clipping."""
    WEIGHT_NORM = "weight_norm"
    """Frobenius norm before the step."""
    UPDATE_RATIO = "update_ratio"
    """|W after - W before| / |W before|."""


class EventKind(StrEnum):
    """What happened besides steps."""

    SAMPLE = "sample"
    """A whole trace was taken."""
    SKIPPED = "skipped"
    """The GradScaler (or --on-nonfinite skip) left out an optimizer step."""
    NONFINITE = "nonfinite"
    """A loss or gradient was NaN or Inf."""
    UNCLEARED = "uncleared"
    """The first backward pass of a step that was looked at added to the gradients of the steps before it."""
    CLEARED = "cleared"
    """It did not, as of a step before it did."""
    UNHELD = "unheld"
    """Backward passes bring a gradient to a network, by its name, of which no optimizer holds anything."""
    IDLE = "idle"
    """By the end an optimizer had made no step; the name of a parameter that gets a gradient and it alone holds."""
    ASTRAY = "astray"
    """A pass went to parameters that nobody moves, in place of those that an optimizer steps: the name of one."""
    RETURNED = "returned"
    """What was astray before gets a gradient again."""
    RESUMED = "resumed"
    """The run went on from a checkpoint, or its file was opened again."""
    NOTE = "note"
    """Anything that a reader must know: a compiled model, a detached watch, a full disk."""


@dataclass(frozen=True, slots=True)
class WatchedParameter:
    """One column of the run."""

    name: str
    """As in ``named_parameters``; with several models prefixed by the model's label and a dot."""
    shape: tuple[int, ...]
    dtype: str
    optimizer: int | None = None
    """Index of the optimizer that holds it; None: none does."""


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something that happened at a step."""

    step: int
    kind: EventKind
    message: str = ""


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What does not change during a run."""

    identity: str
    """Random, 32 hexadecimal digits."""
    started: float
    """Seconds since 1970, UTC."""
    command: tuple[str, ...] = ()
    """The script and its arguments."""
    title: str = ""
    parameters: tuple[WatchedParameter, ...] = ()
    optimizers: tuple[OptimizerStats, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    """Versions."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RunSteps:
    """Rows of steps in ascending order.

    NaN says that a number is *not known* and nothing else: a norm of what holds a NaN is Inf, and losses that were NaN
    are counted (`nan_losses`).
    """

    first: NDArray[np.int64]
    """[rows]: the first training step (from 0) of each row."""
    count: NDArray[np.int64]
    """[rows]: how many steps it pools; 1 is full resolution."""
    time_s: NDArray[np.float64]
    """[rows]: seconds since the run began, at the row's last step."""
    scalars_low: NDArray[np.float64]
    """[rows, len(Scalar)]: the smallest value among the row's steps."""
    scalars_high: NDArray[np.float64]
    """[rows, len(Scalar)]: the largest; an Inf counts, a NaN does not."""
    series_low: NDArray[np.float32]
    """[rows, len(Series), parameters]."""
    series_high: NDArray[np.float32]
    """[rows, len(Series), parameters]."""
    nonfinite: NDArray[np.int64]
    """[rows]: how many of the row's steps had a NaN or Inf in the loss or a gradient."""
    nan_losses: NDArray[np.int64]
    """[rows]: how many of the row's steps had a loss that was NaN."""

    def __repr__(self) -> str:
        return f"<RunSteps: {counted(len(self.first), 'row')} of {counted(self.series_low.shape[2], 'parameter')}>"

    def scalar(self, name: Scalar) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(smallest, largest) by row."""
        column = list(Scalar).index(name)
        return self.scalars_low[:, column], self.scalars_high[:, column]

    def series(self, name: Series) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(smallest, largest) [rows, parameters]."""
        layer = list(Series).index(name)
        return self.series_low[:, layer], self.series_high[:, layer]

    def latest(self, name: Scalar) -> float | None:
        """The last value that is known, NaN where the loss was that; None: none is known.

        >>> RunSteps.empty(3).latest(Scalar.LOSS)
        """
        high = self.scalar(name)[1]
        is_nan = self.nan_losses > 0 if name is Scalar.LOSS else np.zeros(len(high), bool)
        known = np.flatnonzero(~np.isnan(high) | is_nan)
        if not known.size:
            return None
        return float("nan") if is_nan[known[-1]] else float(high[known[-1]])

    @property
    def num_steps(self) -> int:
        """From the first row to the last, steps between rows that were not measured included."""
        return int(self.first[-1] + self.count[-1] - self.first[0]) if len(self.first) else 0

    @property
    def clipping(self) -> tuple[float, float] | None:
        """(fraction of the rows in which clipping bit, median factor it left there); None where it never did."""
        whole, left = self.scalar(Scalar.GRADIENT_NORM)[1], self.scalar(Scalar.CLIPPED_NORM)[1]
        known = np.isfinite(whole) & np.isfinite(left) & (whole > 0.0)
        factors = left[known] / whole[known]
        bit = factors < _UNCLIPPED
        return (float(bit.mean()), float(np.median(factors[bit]))) if bit.any() else None

    @classmethod
    def empty(cls, num_parameters: int) -> RunSteps:
        """No rows.

        >>> RunSteps.empty(3).series(Series.GRADIENT_NORM)[0].shape
        (0, 3)
        """
        scalars = np.empty((0, len(Scalar)))
        series = np.empty((0, len(Series), num_parameters), np.float32)
        none = np.empty(0, np.int64)
        return cls(none, none, np.empty(0), scalars, scalars, series, series, none, none)


@dataclass(frozen=True, slots=True)
class WatchCost:
    """What watching took, by comparing whole steps with and without it; the parts are the split of that number."""

    training_s: float
    """[seconds] Of steps, pauses between them left out."""
    watching_s: float
    """[seconds] Of these, by which they were longer than without a watch."""
    parts_s: tuple[tuple[str, float], ...] = ()
    """[seconds] Of these, by what was done: 'hooks', 'norms', 'updates', 'traces', 'findings', 'walks'."""
    num_compared: int = 0
    """Stretches of steps that were compared with resting ones beside them; 0: by the watch's own clock alone."""

    @property
    def frac(self) -> float:
        """Of the time that the training would take unwatched.

        >>> WatchCost(training_s=102.0, watching_s=2.0).frac
        0.02
        """
        return self.watching_s / max(self.training_s - self.watching_s, 1e-9)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Run(Shown, Tabular):
    """All that a run's file holds, its traces aside: those are read one by one (`gradtrace.runs`)."""

    header: RunHeader
    steps: RunSteps
    events: tuple[RunEvent, ...] = ()
    findings: tuple[Finding, ...] = ()
    """The latest judgement; ``Finding.step`` is the onset."""
    samples: tuple[int, ...] = ()
    """Steps whose whole trace is in the file."""
    finished: bool = False
    """False while it runs, and for a run that was killed."""
    notes: tuple[str, ...] = field(default=())
    """What could not be seen."""
    cost: WatchCost | None = None
    """What watching took; None: not known, as of a run that was killed at its beginning."""
    ranks: RunRanks | None = None
    """Of several ranks that trained together; None: there was one, or there are too many to tell them apart."""
    entries: RunEntries | None = None
    """Of gradients, where several ranks trained together; None: nobody looked."""

    def __repr__(self) -> str:
        state = "finished" if self.finished else "not finished"
        seen = f"{counted(self.steps.num_steps, 'step')}, {counted(len(self.findings), 'finding')}"
        return f"<Run {self.header.title!r}: {seen}, {state}>"

    def plot(self, *, columns: Columns = 1) -> Figure:
        """Loss, and gradient norm by weight and step, for a paper: a matplotlib figure one or two columns wide.

        Raises:
            InputError: no step was watched, or matplotlib is not installed (``pip install '.[figures]'``).
        """
        figure: Figure = rendered(self, "plot", columns=columns)
        return figure
