"""The prediction: what the theory of signal propagation says of a network before training, beside what is measured.

Growth is the factor on the mean squared gradient E[g^2] from a layer's output to its input; its square root is the
RMS gain, and decades are log10 of the RMS gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradtrace.records.shown import Kept, counted, rendered

PARTS = ("weights", "activation", "norm", "dropout", "stride", "time", "residual", "other")


@dataclass(frozen=True, slots=True)
class Split:
    """A layer's growth of E[g^2] as a product."""

    weights: float = 1.0
    """Var(w) fan_out, and constants that multiply."""
    activation: float = 1.0
    """E[a'^2]."""
    norm: float = 1.0
    dropout: float = 1.0
    stride: float = 1.0
    """Positions that are skipped, pooled, dropped or repeated; borders."""
    time: float = 1.0
    """Of a recurrence: what its other time steps (and layers) add to what one step passes on."""
    residual: float = 1.0
    """What the other users of the layer's input add: their sum over this layer's share."""
    other: float = 1.0
    """Ops without a rule: measured (1 where nothing could be)."""

    @property
    def growth(self) -> float:
        """The product."""
        return math.prod(float(getattr(self, part)) for part in PARTS)

    @property
    def design(self) -> float:
        """The product without what the shapes demand: skipped and pooled positions."""
        return self.growth / self.stride if self.stride > 0 else self.growth


@dataclass(frozen=True, slots=True)
class LayerPrediction:
    """One layer: its weights and what follows (or precedes) them up to the next layer or sum."""

    module: str
    module_type: str
    activation: str
    """Name of the activation function, or ''."""
    fan_in: int
    fan_out: int
    gain: float
    """sqrt(Var(w) fan_out): 1 / sqrt(3) for PyTorch's default square nn.Linear."""
    sigma_b2: float
    """E[b^2] of the bias."""
    split: Split
    decades: float
    """Predicted, from the network's output to this layer's input."""
    low: float
    high: float
    """95 % of networks lie between, in decades."""
    correlation: float
    """Predicted between the outputs of two samples: 1 means that they have become one vector."""
    measured_growth: float = math.nan
    measured_decades: float = math.nan
    measured_correlation: float = math.nan
    time_growth: float = math.nan
    """Of a recurrence: growth of E[g^2] per time step, back in time."""
    num_steps: int = 0
    """Time steps of a recurrence (1 where a cell is called step by step); 0: it is none."""
    note: str = ""
    """What has no rule here, or ''."""
    source: str = ""


@dataclass(frozen=True, slots=True)
class FormatDepth:
    """How deep this design can be in a number format."""

    format: str
    depth: float
    """Layers after which a gradient of the size of a mean loss's has become zero; inf: never."""
    loss_scale: float
    """Power of two that keeps every layer of this network in the format's normal range; 1: none needed, NaN: none."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A place where the measured growth lies outside of what the theory allows."""

    where: str
    predicted_growth: float
    measured_growth: float
    num_sigmas: float
    message: str


@dataclass(frozen=True, slots=True, repr=False)
class Prediction(Kept):
    """The audit of one network: layers from the input to the output."""

    title: str
    layers: tuple[LayerPrediction, ...]
    decades: float
    """Predicted total, from the network's output to the input of the earliest layer."""
    low: float
    high: float
    measured_decades: float
    """Of random cotangents; NaN where nothing could be measured."""
    growth_per_layer: float
    """Geometric mean over the hidden layers, fan_out / fan_in and skipped positions taken out; NaN under 3 layers."""
    phase: str
    """'ordered' (the gradient vanishes), 'critical', 'chaotic' (it explodes), or 'unknown' (under 3 layers)."""
    depth_of_loss: float
    """Layers of this design after which the RMS gradient has changed by 1e-3 (or 1e3)."""
    formats: tuple[FormatDepth, ...]
    sentences: tuple[str, ...]
    disagreements: tuple[Disagreement, ...] = ()
    gaps: tuple[str, ...] = ()
    """Layers without a rule, and what was done instead."""
    notes: tuple[str, ...] = ()
    reference: bool = False
    """True where the weights do not look fresh: the prediction is a reference, the measurement decides."""

    def diagram(self) -> str:
        """The phase diagram of its most common activation as text, with the layers on it."""
        return str(rendered(self, "diagram"))

    @property
    def agrees(self) -> bool:
        """Whether the measured total lies in the interval (also where none was measured)."""
        return math.isnan(self.measured_decades) or self.low <= self.measured_decades <= self.high

    def __repr__(self) -> str:
        seen = counted(len(self.layers), "layer")
        return f"<Prediction {self.title!r}: {seen}, {self.decades:+.2f} decades, {self.phase}>"

    def to_json(self) -> str:
        """Strict JSON; a number that is not finite is the string 'nan', 'inf' or '-inf'."""
        return str(rendered(self, "json"))


@dataclass(frozen=True, slots=True)
class InitialisedParameter:
    """What `init_critical_` did to one parameter."""

    name: str
    method: str
    gain: float
    """sqrt(fan_in Var(w)); NaN for biases and gates."""
    reason: str
    rows_are_inputs: bool = False
    """As of x @ W, and of transposed convolutions: the units are the second axis."""


@dataclass(frozen=True, slots=True, repr=False)
class Initialisation:
    """What `init_critical_` did, in the order of the forward pass."""

    parameters: tuple[InitialisedParameter, ...]
    untouched: tuple[str, ...] = ()
    """Parameters that were left as they are."""
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        done, left = counted(len(self.parameters), "parameter"), len(self.untouched)
        return f"<Initialisation: {done} drawn, {left} left as they were>"

    def __str__(self) -> str:
        """One line per parameter."""
        return str(rendered(self, "text"))

    def _repr_html_(self) -> str:
        return str(rendered(self, "html"))
