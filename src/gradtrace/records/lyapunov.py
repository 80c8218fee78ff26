"""Lyapunov exponents: how fast a recurrence stretches or shrinks, direction by direction."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradtrace.records.shown import rendered

GAMMA = {"rnn_tanh": 1.0, "rnn_relu": 1.0}
"""Largest derivative of the activation (Pascanu et al. 2013); 1/4 for a sigmoid, which nn.RNN does not have."""


@dataclass(frozen=True, slots=True)
class LyapunovSpectrum:
    """The exponents of one layer and direction, largest first, in nats per step."""

    module: str
    kind: str
    layer: int
    direction: str
    exponents: tuple[float, ...]
    errors: tuple[float, ...]
    """Standard errors, from stretches of time and sequences."""
    dim: int
    """Of the state: of h, or of (h, c)."""
    num_steps: int
    num_sequences: int
    singular_value: float
    """Largest of W_hh: a certificate, never a verdict."""

    @property
    def largest(self) -> float:
        """The growth rate of any gradient, in the long run."""
        return self.exponents[0]

    @property
    def mean_log_det(self) -> float:
        """Mean of ln |det J_t|, where the spectrum is whole; else NaN."""
        return math.fsum(self.exponents) if len(self.exponents) == self.dim else math.nan

    def growth_decades(self, num_steps: int) -> float:
        """Predicted log10 of the gradient's growth over `num_steps` steps: exp(lambda T)."""
        return self.largest * num_steps / math.log(10)

    @property
    def name(self) -> str:
        """``rnn``, ``rnn layer 1, backward``."""
        name = (self.module or "the model") + (f" layer {self.layer}" if self.layer else "")
        return name + (", backward" if self.direction == "backward" else "")

    def sentence(self) -> str:
        """What the largest exponent means."""
        told = f"{self.name}: largest Lyapunov exponent {self.largest:+.4f} +- {self.errors[0]:.4f} nats a step"
        if abs(self.largest) <= 2 * self.errors[0]:
            return f"{told}: not told from 0, the edge on which gradients keep their size."
        rate = abs(1 / self.largest)
        if self.largest < 0:
            return f"{told}: the recurrence contracts, and a gradient falls e-fold every {rate:.3g} steps."
        return f"{told}: the recurrence expands (chaos), and a gradient grows e-fold every {rate:.3g} steps."

    def _repr_html_(self) -> str:
        return str(rendered(self, "html"))

    def certificate(self) -> str:
        """Pascanu's sufficient condition beside the largest exponent; '' for gated cells."""
        return certificate(self.kind, self.singular_value, self.largest)


def certificate(kind: str, singular_value: float, measured: float) -> str:
    """The sufficient condition of Pascanu et al. 2013 beside the measured rate (nats per step); '' for gated cells.

    It is true and far from sharp: a gradient shrinks by the typical singular values, not by the largest.

    >>> certificate("rnn_tanh", 0.5, -0.9)
    'largest singular value of W_hh 0.5 against 1/gamma = 1: proves that gradients vanish (at most -0.693 nats a step,
    measured -0.900)'
    """
    gamma = GAMMA.get(kind)
    if gamma is None or math.isnan(singular_value):
        return ""
    bound = math.log(gamma * singular_value) if singular_value else -math.inf
    verdict = "proves that gradients vanish" if bound < 0 else "proves nothing"
    return (
        f"largest singular value of W_hh {singular_value:.3g} against 1/gamma = {1 / gamma:g}: {verdict} (at most "
        f"{bound:+.3f} nats a step, measured {measured:+.3f})"
    )
