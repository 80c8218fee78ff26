"""Which rank, or which parameter on which ranks, stands apart? Sentences, each of them once.

Where ranks are alike, each is the largest of R with chance 1 / R at every report, whatever the numbers are distributed
as; so the chance that one of them is it k times of n follows from the binomial distribution, times 2 R for the choice.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.thresholds import RANK_CHANCE, RANK_SIGMAS, RANK_SLOW
from gradtrace.distributed.channel import named_ranks
from gradtrace.distributed.report.fields import SLOT
from gradtrace.distributed.report.merged import DIFFERENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from gradtrace.distributed.report.merged import Merged

LATEST, LOOK_EVERY = 64, 8
"""[reports] That ranks are compared over, and between two looks."""

MOST_SENTENCES, MOST_NAMED = 3, 3
"""Of one kind; parameters named in one."""

FEWEST_RANKS = 4
"""Of fewer, nobody can say whose loss is the odd one."""


class Apart:
    """Of one run."""

    def __init__(self) -> None:
        self._told: dict[str, set[int]] = {}
        self._num_told: dict[str, int] = {}
        self._losses: deque[NDArray[np.float64]] = deque(maxlen=LATEST)
        self._times: deque[NDArray[np.float64]] = deque(maxlen=LATEST)
        self._gradients: deque[NDArray[np.float64]] = deque(maxlen=LATEST)
        self._num = 0
        self._last_same = {"weights": -1, "buffers": -1}
        """The latest step at which all were looked at, and were the same."""

    def look(self, step: int, merged: Merged, names: Sequence[str], buffers: Sequence[str] = ()) -> Iterator[str]:
        """What is new in the report of `step`, which is complete; `names` of the columns."""
        if fresh := self._fresh("gradients", merged.differ.nonzero()[0]):
            yield (
                f"since step {step} gradients are not the same on all ranks ({_named(fresh, names)}): they are not "
                "averaged, or different parameters have the same name; rank 0's are shown"
            )
        if merged.late.any() and self._fresh("late", [0]):
            yield "gradients are averaged after the backward pass: their norms are those that the optimizer sees"
        apart = self._told.get("gradients", set())  # whose weights part as a matter of course
        yield from self._of_copies("weights", step, merged, [i for i in _ids(merged.parted) if i not in apart], names)
        yield from self._of_copies("buffers", step, merged, _ids(merged.parted_buffers), buffers)
        if merged.slots is not None:
            yield from self._of_ranks(step, merged.slots)

    def _of_copies(
        self, kind: str, step: int, merged: Merged, parted: Sequence[int], names: Sequence[str]
    ) -> Iterator[str]:
        """What every rank has a copy of."""
        if fresh := self._fresh(kind, parted):
            last = self._last_same[kind]
            since = f"after step {last} and not later than" if last >= 0 else "from"
            yield f"{kind} are not the same on all ranks {since} step {step} on: {_named(fresh, names)}"
        if merged.summed and not parted:
            self._last_same[kind] = step

    def _of_ranks(self, step: int, slots: NDArray[np.float64]) -> Iterator[str]:
        losses, times, bad, gradients = slots[:, : len(SLOT)].T
        ill = np.flatnonzero((bad > 0.0) & ~np.isfinite(losses))
        if 0 < len(ill) < len(losses) and (fresh := self._fresh("nonfinite", ill, most=1)):
            yield f"at step {step} the loss of {named_ranks(fresh)} was not finite, and the others' was"
        self._losses.append(_known_apart(losses))
        self._times.append(times)
        self._gradients.append(_known_apart(gradients))
        self._num += 1
        if self._num % LOOK_EVERY:
            return
        num = len(self._losses)
        for kind, name, known in (("loss", "loss", self._losses), ("local", "gradient", self._gradients)):
            odd = odd_one(np.array(known))
            is_off = odd is not None and len(losses) >= FEWEST_RANKS and abs(odd.sigmas) >= RANK_SIGMAS
            if odd is not None and is_off and self._fresh(kind, [odd.rank]):
                which = "before it is averaged " if kind == "local" else ""
                yield (
                    f"the {name} of rank {odd.rank} {which}stands apart: {odd.own:.3g} where the others' is "
                    f"{odd.others:.3g} (medians of the {num} reports up to step {step}): look at the data that it is "
                    "given, and at its device"
                )
        odd = odd_one(np.array(self._times), only_largest=True)
        is_slow = odd is not None and odd.own >= RANK_SLOW * odd.others > 0.0
        if odd is not None and is_slow and self._fresh("slow", [odd.rank]):
            yield (
                f"the others wait for rank {odd.rank}: it takes {odd.own / odd.others:.1f} times as long to its loss "
                f"(median of the {num} reports up to step {step})"
            )

    def _fresh(self, kind: str, found: Sequence[int] | NDArray[np.int64], most: int = MOST_SENTENCES) -> list[int]:
        """Those of `found` that nobody was told of yet; they are told now."""
        told = self._told.setdefault(kind, set())
        fresh = sorted({int(one) for one in found} - told)
        told.update(fresh)
        if fresh:
            self._num_told[kind] = self._num_told.get(kind, 0) + 1
        return fresh if self._num_told.get(kind, 0) <= most else []


@dataclass(frozen=True, slots=True)
class Odd:
    """A rank that is not like the others."""

    rank: int
    sigmas: float
    """[robust standard deviations of the others] By which it is off, the median over reports."""
    own: float
    """Its median."""
    others: float
    """Theirs."""


def _known_apart(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unknown where all of them are one and the same to rounding: of one batch, or of an averaged gradient."""
    with np.errstate(invalid="ignore"):
        is_apart = np.ptp(values) > DIFFERENT * np.abs(values).max()
    return values if is_apart else np.full_like(values, np.nan)


def odd_one(values: NDArray[np.float64], *, only_largest: bool = False) -> Odd | None:
    """The rank that is the largest, or the smallest, too often to be like the others; `values` [reports, ranks]."""
    known = values[np.isfinite(values).all(axis=1)]
    num, num_ranks = known.shape
    if num < LOOK_EVERY or num_ranks < 2:
        return None
    found = []
    for extreme in [known.argmax(axis=1)] if only_largest else [known.argmax(axis=1), known.argmin(axis=1)]:
        counts = np.bincount(extreme, minlength=num_ranks)
        rank = int(counts.argmax())
        if 2.0 * num_ranks * at_least(int(counts[rank]), num, 1.0 / num_ranks) < RANK_CHANCE:
            found.append(_beside_the_others(known, rank))
    return max(found, key=lambda one: abs(one.sigmas), default=None)


def _beside_the_others(values: NDArray[np.float64], rank: int) -> Odd:
    others = np.delete(values, rank, axis=1)
    middle = np.median(others, axis=1)
    spread = 1.4826 * np.median(np.abs(others - middle[:, None]), axis=1)
    is_spread = spread > 0.0
    off = (values[is_spread, rank] - middle[is_spread]) / spread[is_spread]
    sigmas = float(np.median(off)) if off.size else math.inf
    return Odd(rank, sigmas, float(np.median(values[:, rank])), float(np.median(middle)))


def at_least(k: int, n: int, p: float) -> float:
    """Chance of `k` or more successes of `n`.

    >>> at_least(2, 2, 0.5), round(at_least(0, 3, 0.1), 9)
    (0.25, 1.0)
    """
    return math.fsum(math.comb(n, i) * p**i * (1.0 - p) ** (n - i) for i in range(k, n + 1))


def _ids(flags: NDArray[np.bool_]) -> list[int]:
    found: list[int] = flags.nonzero()[0].tolist()
    return found


def _named(columns: Sequence[int], names: Sequence[str]) -> str:
    more = f" and {len(columns) - MOST_NAMED} more" if len(columns) > MOST_NAMED else ""
    return ", ".join(names[i] for i in columns[:MOST_NAMED]) + more
