"""What was measured? Frozen numbers, made by `network` and `training` with torch, drawn and told without it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.lesson.setting import RecurrentSetting, Setting, TrainingSetting

if TYPE_CHECKING:
    from gradtrace.records.repair import Repair
    from gradtrace.records.trace import Trace


@dataclass(frozen=True, slots=True)
class Measured:
    """One backward pass of a setting's network; tuples run over the layers l = 1 ... L."""

    setting: Setting
    norms: tuple[float, ...]
    """|L'(l)|."""
    activation_decades: tuple[float, ...]
    """log10 of |L'(l) a'(l)| / |L'(l)|."""
    saturated_frac: tuple[float, ...]
    """Share of the units whose a' is under 5 % of its maximum."""
    derivative_rms: tuple[float, ...]
    """sqrt(E[a'^2])."""
    relative_gradient: tuple[float, ...]
    """|dL/dW(l)| / |W(l)|."""
    loss: float

    @property
    def decades(self) -> tuple[float, ...]:
        """log10 of |L'(l)| / |L'(L)|: zero at the last layer."""
        return tuple(_ratio(norm, self.norms[-1]) for norm in self.norms)

    @property
    def lost_decades(self) -> float:
        """From the last layer's output to the first's."""
        return self.decades[0]

    @property
    def activations_lost_decades(self) -> float:
        """What the activations of layers L ... 2 did of it: the product of all a' between."""
        return math.fsum(self.activation_decades[1:])

    @property
    def weights_lost_decades(self) -> float:
        """What the weights (and skip connections) of layers L ... 2 did of it."""
        return self.lost_decades - self.activations_lost_decades


@dataclass(frozen=True, slots=True)
class MeasuredChain:
    """One backward pass through layers of one unit each; tuples run over l = 1 ... L."""

    activation: str
    weights: tuple[float, ...]
    gradients: tuple[float, ...]
    """L'(l)."""
    slopes: tuple[float, ...]
    """a'(l)."""
    learns: tuple[float, ...]
    """dL/dW(l)."""
    loss: float

    @property
    def setting(self) -> dict[str, object]:
        """What the page's controls say of it."""
        return {"activation": self.activation} | {f"w{l}": w for l, w in enumerate(self.weights, 1)}


@dataclass(frozen=True, slots=True)
class MeasuredInTime:
    """One backward pass through time."""

    setting: RecurrentSetting
    norms: tuple[float, ...]
    """|L'(h_t)|, t = 0 ... T."""
    horizon_steps: float
    """Steps back after which any gradient has fallen to a thousandth."""
    singular_value: float
    """Largest of W."""

    @property
    def decades(self) -> tuple[float, ...]:
        """log10 of |L'(h_t)| / |L'(h_T)|."""
        return tuple(_ratio(norm, self.norms[-1]) for norm in self.norms)


@dataclass(frozen=True, slots=True)
class MeasuredTraining:
    """One training."""

    setting: TrainingSetting
    losses: tuple[float, ...]
    """Before each step."""
    update_ratios: tuple[float, ...]
    """|new W(l) - W(l)| / |W(l)|, the mean over every RATIO_EVERY-th step; l = 1 ... depth + 1, the readout last."""
    difference: float
    """How much the last hidden layer's output differs from digit to digit in the end: |h - mean h| / |h|."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """All that the page is made of; names are those of `presets`."""

    chain: MeasuredChain
    networks: dict[str, Measured]
    trace: Trace
    """Of the network called sigmoid."""
    sameness: dict[str, tuple[float, ...]]
    """Mean cosine between the outputs of two inputs, by layer from 0: of 'deep' and 'deep_skip_scaled'."""
    recurrent: dict[str, MeasuredInTime]
    training: dict[str, MeasuredTraining]
    repair: Repair
    """Of the training called sigmoid."""


def _ratio(norm: float, last: float) -> float:
    return math.log10(norm) - math.log10(last) if norm > 0 and last > 0 else -math.inf
