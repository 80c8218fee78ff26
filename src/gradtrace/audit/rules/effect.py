"""What does one step do? Signals of its outputs, and per input the growth of E[g^2], split into parts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.audit.recording import Step, Value
    from gradtrace.audit.signals import Signal
    from gradtrace.theory.gaussian import Array
    from gradtrace.theory.nonlinearities import Nonlinearity


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """What the gradient of one output becomes at one input."""

    growth: float
    profile: Array | None = None
    """Relative to the mean energy: covariance of the input's time steps [T, lags], or energy per class of units."""
    steps: float = 0.0
    """Time steps that it has come, on average."""
    shape: float = 0.0
    """ln of what the shapes demand of the growth: units over inputs."""


@dataclass(slots=True)
class Effect:
    """The rule's answer for one step."""

    signals: list[Signal | None]
    """Per output; None: no theory for it, the observed signal goes on."""
    parts: list[dict[str, float]]
    """Per input, part (as in `Split`) -> growth."""
    conserved: bool = False
    """The sum of squares is conserved (moved, dropped or repeated elements): the growth is a ratio of sizes as well."""
    fan: tuple[int, int] | None = None
    """(fan_in, fan_out) of a layer with weights."""
    gain: float = 1.0
    """sqrt(Var(w) fan_out) of such a layer."""
    sigma_b2: float = 0.0
    """E[b^2] of its bias."""
    positions: float = 1.0
    """Places where the same weights are used, per sample."""
    unit_variance: float = 0.0
    """Relative variance of the growth from unit to unit."""
    sensitivity: float = 0.0
    """d ln growth / d ln of the input's second moment."""
    drift: float = 0.0
    """Standard deviation of ln growth for reasons of its own."""
    spread: float = 0.0
    """Of a measured step: ln growth of a gradient that is the same at all places, less that of a random one."""
    largest_of: int = 0
    """Of so many neighbours the largest alone gets gradient (max pooling)."""
    activation: str = ""
    function: Nonlinearity | None = None
    """The activation function itself."""
    note: str = ""
    scatter: float = 0.0
    """How far ln growth of one network may lie off for what the next weights take back (norms, channel by channel)."""
    pooled: float = 0.0
    """Of an average over positions: 1 / the number of positions that it leaves."""
    axes: tuple[Array, ...] = ()
    """Of a convolution, per axis: how many taps join an input position to an output position [inputs, outputs]."""
    slopes: tuple[float, float] = (0.0, 0.0)
    """Of an activation: E[a']^2 and E[a' z]^2 / q over E[a'^2]: what follows 1, and z, of a gradient."""
    over_positions: float = 0.0
    """Of a norm over the positions of so many channels: 1 / their number."""
    units: int = 0
    """Of a recurrence: how many of its units carry gradient."""
    num_layers: int = 1
    """Layers with weights that this step holds."""
    transport: Callable[[int, int, Array | None], Arrival] | None = None
    """Of a recurrence, in place of `parts`: (input slot, which output, its profile) -> what arrives."""
    time_growth: float = math.nan
    """Of a recurrence: growth per time step, back in time."""
    num_steps: int = 0
    """Time steps of a recurrence; 0: it is none."""


@dataclass(slots=True)
class Scene:
    """What a rule sees: the step, its values and their predicted signals."""

    step: Step
    inputs: list[Value]
    outputs: list[Value]
    signals: list[Signal]
    batch_size: int
    tensors: list[Tensor] = field(default_factory=list)
    feeder: str = ""
    """The function that made the first input."""

    def slot_of(self, argument: Any) -> int | None:
        """Which input an argument is, or None: a constant or a parameter."""
        return next((slot for slot, tensor in enumerate(self.tensors) if tensor is argument), None)


def mean_square(tensor: Any, default: float) -> float:
    """E[x^2] of a parameter; `default` for one without numbers (None, or on the meta device)."""
    if not isinstance(tensor, Tensor) or tensor.is_meta or not tensor.numel():
        return default
    return float(tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32)).square().mean())


def pass_on(scene: Scene, part: str = "stride", growth: float = 1.0) -> Effect:
    """One output like the first input, the gradient times `growth`."""
    return Effect([scene.signals[0]] * len(scene.outputs), [{part: growth} for _ in scene.inputs])
