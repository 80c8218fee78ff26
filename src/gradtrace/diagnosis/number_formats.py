"""What would a smaller number format do to these gradients, and which loss scale would save them?

A trace keeps of each gradient how many of its entries lie in [2^e, 2^(e+1)), by e = floor(log2 |g|). Of a format with
smallest subnormal 2^s and largest number M:

- Rounding to nearest, ties to even, |g| <= 2^(s-1) becomes zero and everything above becomes 2^s at least. The edge is
  that of a bin, so the bins e <= s-2 are lost whole and all others kept (but for entries of 2^(s-1) exactly, a tie).
- |g| > M overflows: to infinity in fp16, bf16 and e5m2, to NaN or M in e4m3 (OCP 8-bit floating point specification,
  2023). M lies inside of a bin; that bin is counted whole if the largest entry is above M, so that the share that
  overflows is an upper bound.

Multiplying the loss by 2^k moves every entry by k bins and rounds nothing. So with e_min the lowest bin and g_max the
largest entry of all gradients together

    s - 1 - e_min  <=  k  <=  floor(log2(M / g_max))

keeps every entry. Where no k does, the best is the largest without overflow: a single infinity spoils the step (a
GradScaler leaves it out), a flushed entry costs only itself (Micikevicius et al., Mixed precision training, 2018,
section 3.2). The gradients are those of the parameters; where a scaler had scaled the loss, k comes on top of that. Of
a large gradient the bins hold an evenly spaced sample (`TensorStats.log2_counts`): rarer ones may be missed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.diagnosis.thresholds import HALF_FORMATS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.trace import TensorStats, Trace


@dataclass(frozen=True, slots=True)
class FormatLoss:
    """What a format loses of one gradient, or of several; fractions of the entries that are finite and not zero."""

    flushed_frac: float
    """Rounded to zero."""
    overflow_frac: float
    """Above the largest number, at most: the bin that it lies in counts whole."""

    @property
    def is_none(self) -> bool:
        """Whether every entry survives (with however few digits)."""
        return self.flushed_frac == 0.0 and self.overflow_frac == 0.0


@dataclass(frozen=True, slots=True)
class LossScale:
    """Powers of two to multiply the loss by."""

    low_log2: int
    """From here on no entry is rounded to zero."""
    high_log2: int
    """Up to here none overflows."""
    lost: FormatLoss
    """At the best scale."""

    @property
    def keeps_all(self) -> bool:
        """Whether a scale loses nothing: all from `low_log2` to `high_log2`."""
        return self.low_log2 <= self.high_log2


def format_loss(gradients: Sequence[TensorStats], number_format: str, scale_log2: int = 0) -> FormatLoss:
    """What `number_format` loses of `gradients` times 2^scale_log2; each tensor counts with all its non-zero entries.

    >>> from gradtrace.records.trace import TensorStats
    >>> g = TensorStats((4,), "float32", "cpu", 1e-5, 1e-5, 0.0, log2_counts=((-27, 1), (-26, 1), (-25, 1), (-17, 1)))
    >>> format_loss([g], "float16"), format_loss([g], "float16", 2)
    (FormatLoss(flushed_frac=0.5, overflow_frac=0.0), FormatLoss(flushed_frac=0.0, overflow_frac=0.0))

    Raises:
        KeyError: `number_format` is none of `thresholds.HALF_FORMATS`.
    """
    smallest, largest = HALF_FORMATS[number_format]
    flushed = overflown = whole = 0.0
    for stats in gradients:
        counts = [(exponent + scale_log2, count) for exponent, count in stats.log2_counts]
        total = sum(count for _, count in counts)
        if not total:
            continue
        per_count = stats.numel * (1.0 - stats.zero_frac - stats.nonfinite_frac) / total  # large ones are sampled
        top = _floor_log2(largest) + (not _is_above(stats, scale_log2, largest))
        flushed += per_count * sum(count for exponent, count in counts if exponent <= smallest - 2)
        overflown += per_count * sum(count for exponent, count in counts if exponent >= top)
        whole += per_count * total
    return FormatLoss(flushed / whole, overflown / whole) if whole else FormatLoss(0.0, 0.0)


def loss_scale(gradients: Sequence[TensorStats], number_format: str) -> LossScale | None:
    """The powers of two that keep all entries of `gradients`, or the best; None without an entry.

    >>> from gradtrace.records.trace import TensorStats
    >>> g = TensorStats((2,), "float32", "cpu", 1e-8, 1e-8, 0.0, log2_counts=((-30, 1), (-27, 1)))
    >>> scale = loss_scale([g], "float16")
    >>> scale.low_log2, scale.high_log2, scale.keeps_all
    (5, 42, True)
    """
    smallest, largest = HALF_FORMATS[number_format]
    counted = [stats for stats in gradients if stats.log2_counts]
    if not counted:
        return None
    low = smallest - 1 - min(stats.log2_counts[0][0] for stats in counted)
    high = min(_room_log2(stats, largest) for stats in counted)
    return LossScale(low, high, format_loss(counted, number_format, high))


def parameter_gradients(trace: Trace) -> tuple[tuple[str, TensorStats], ...]:
    """(name, gradient) of the parameters whose gradient has an entry that is finite and not zero."""
    found = ((parameter.name, parameter.gradient) for parameter in trace.parameters)
    return tuple((name, stats) for name, stats in found if stats is not None and stats.log2_counts)


def _floor_log2(value: float) -> int:
    return math.frexp(value)[1] - 1


def _is_above(stats: TensorStats, scale_log2: int, largest: float) -> bool:
    return scale_log2 > _room_log2(stats, largest)


def _room_log2(stats: TensorStats, largest: float) -> int:
    """The largest k with max |g| 2^k <= `largest`; without a finite maximum the top bin counts as full."""
    if not (math.isfinite(stats.max_abs) and stats.max_abs > 0.0):
        return _floor_log2(largest) - stats.log2_counts[-1][0] - 1
    (mantissa, exponent), (limit, most) = math.frexp(stats.max_abs), math.frexp(largest)
    return most - exponent if mantissa <= limit else most - exponent - 1
