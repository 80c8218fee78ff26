"""What must an object do to receive the numbers of a run?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "gradtrace/"
"""Before each name, so that a tracker shows them together and apart from the script's own."""


@dataclass(frozen=True, slots=True)
class Log2Histogram:
    """How many entries of a gradient have floor(log2 |g|) at each exponent."""

    counts: tuple[tuple[int, int], ...]
    """(exponent, count), exponents ascending."""

    @property
    def edges(self) -> list[int]:
        """Each exponent and the one after the last: one more than there are counts; gaps are filled by `filled`."""
        first, last = self.counts[0][0], self.counts[-1][0]
        return list(range(first, last + 2))

    @property
    def filled(self) -> list[int]:
        """Counts from the first exponent to the last, zeros in the gaps.

        >>> histogram = Log2Histogram(((-9, 2), (-7, 5)))
        >>> histogram.edges, histogram.filled
        ([-9, -8, -7, -6], [2, 0, 5])
        """
        known = dict(self.counts)
        return [known.get(exponent, 0) for exponent in self.edges[:-1]]


class Sink:
    """Receives numbers by name. It may raise: it is then left out for the rest of the run."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step; all are measured (no NaN), infinities come as such."""
        raise NotImplementedError

    def histogram(self, step: int, name: str, histogram: Log2Histogram) -> None:
        """The sizes of one parameter's gradient; left out where nothing else is said."""

    def text(self, step: int, name: str, text: str) -> None:
        """A finding; left out where nothing else is said."""

    def close(self) -> None:
        """Send what is waiting."""
