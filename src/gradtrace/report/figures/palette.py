"""Which colour is which factor? The same as in the HTML report on white paper (Okabe and Ito, 2008, darkened)."""

from __future__ import annotations

from gradtrace.records.vocabulary import Factor

FACTOR_COLOURS: dict[Factor, str] = {
    Factor.ACTIVATION: "#d55e00",
    Factor.WEIGHT: "#0072b2",
    Factor.NORM: "#009e73",
    Factor.ATTENTION: "#b35a92",
    Factor.MERGE: "#9a8500",
    Factor.RESHAPE: "#767d86",
    Factor.LOSS: "#767d86",
    Factor.OTHER: "#767d86",
}
INK, SOFT, FAINT, LINE = "#1b1f24", "#57606a", "#d5dae0", "#e7eaee"
BAND, BOUND, EXPECTED = "#e3f3ec", "#b3261e", "#1b1f24"
MISSING, BROKEN, ZERO = "#f6f7f9", "#b3261e", "#000000"
"""Cells of a heat map without a number, with a NaN or Inf, and with an exact zero."""
SERIES = (FACTOR_COLOURS[Factor.WEIGHT], FACTOR_COLOURS[Factor.ACTIVATION], FACTOR_COLOURS[Factor.NORM],
          FACTOR_COLOURS[Factor.ATTENTION])  # fmt: skip
