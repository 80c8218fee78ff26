"""How do signal and gradient travel through the time steps of a recurrence: plain, LSTM or GRU?

Each gate's pre-activation is Gaussian, z = W_ih x + W_hh h + b with independent weights, so that per unit

    Var(z) = Var(w_ih) N E[x^2] + Var(w_hh) H E[h^2],           its mean: the unit's own bias
    LSTM   c' = f c + i g,   h' = o tanh(c')          GRU   h' = (1 - z) n + z h,   n = tanh(s + r u)
    plain  h' = a(z)

Units differ in their biases, and in what their input has in common over time: each such class of units keeps its own
moments, for a product of fifty forget gates is not the fiftieth power of their mean. `Flow` is what a step then does to
the gradient; `gradtrace.theory.through_time` sends it back.

Source: Chen, Pennington & Schoenholz, Dynamical isometry and a mean field theory of RNNs (2018), section 3; Gilboa et
al., Dynamical isometry and a mean field theory of LSTMs and GRUs (2019), section 3 (gates), 4 (state Jacobian).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradtrace.theory.backprop import sigmoid
from gradtrace.theory.gaussian import Array
from gradtrace.theory.nonlinearities import normal_cdf, normal_density

CLASSES = 128
"""Classes of units; a layer with more is represented by as many of its units."""
_NODES = np.linspace(-6.0, 6.0, 61)
_WEIGHTS = normal_density(_NODES) / normal_density(_NODES).sum()
"""Trapezoid rule in standard deviations: its error falls exponentially for sigmoid and tanh (1e-5 at Var(z) = 16)."""
SETTLED = 1e-5
"""Relative change of E[h^2] and E[c^2] per step under which the rest of the time is like this step."""


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """The weights of one layer and direction as the theory sees them; G pre-activations per unit.

    LSTM: input, forget, cell, output. GRU: reset, update, and the two parts s = W_in x, u = W_hn h of the new state.
    """

    kind: str
    """'tanh', 'relu', 'lstm' or 'gru'."""
    signal_in: Array
    """Var(w_ih) N per pre-activation [G]."""
    signal_back: Array
    """Var(w_hh) times the size of h [G]."""
    gradient_in: Array
    """Var(w_ih) H [G]: from a pre-activation to the input."""
    gradient_back: Array
    """Var(w_hh) H [G]: to the state of the step before."""
    bias: Array
    """[G, CLASSES]."""
    projection: tuple[float, float] = (1.0, 1.0)
    """Of an LSTM's output: what it multiplies signal and gradient by."""


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """Mean and second moment per class of units [CLASSES]: of the output h and of an LSTM's cell c."""

    mean: Array
    second: Array
    cell_mean: Array
    cell_second: Array

    @classmethod
    def of(cls, second: float = 0.0, cell_second: float = 0.0) -> Units:
        """All classes alike, with mean zero."""
        zero = np.zeros(CLASSES)
        return cls(zero, zero + second, zero, zero + cell_second)

    def change(self, before: Units) -> float:
        """Relative change since `before`."""
        pairs = ((self.second, before.second), (self.cell_second, before.cell_second))
        return max(abs(float(new.mean() - old.mean())) / max(float(new.mean()), 1e-30) for new, old in pairs)


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """What one time step does to the gradient: mean and second moment of each factor, [2, (G,) CLASSES].

    The state s that carries it unit by unit is c (LSTM) or h (GRU, plain). The second moments multiply its energy; the
    means count where the gradients of two time steps are correlated.
    """

    output_to_state: Array
    state_to_state: Array
    state_to_gates: Array
    output_to_gates: Array
    """The output gate of an LSTM."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """E[x^2] of the inputs, and E[x_s x_t] of two steps of one sample (or of two samples at one step)."""

    second: float
    shared: float = 0.0


def offsets(seed: int, num_gates: int) -> Array:
    """Standard normal quantiles, shuffled per gate: where the classes lie in what is shared [num_gates, CLASSES]."""
    levels = (np.arange(CLASSES) + 0.5) / CLASSES
    grid = np.linspace(-4.0, 4.0, 4001)
    quantiles = np.interp(levels, normal_cdf(grid), grid)
    quantiles /= math.sqrt(float(np.mean(quantiles**2)))
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(quantiles) for _ in range(num_gates)])


def step(cell: Cell, inputs: Inputs, units: Units, seed: int = 0) -> tuple[Units, Flow]:
    """One time step. What the input (and h) share lies in `offsets(seed)`: the same seed at all steps, shared in time.

    >>> plain = Cell("tanh", *np.array([[0.0], [1.5], [0.0], [1.5]]), np.zeros((1, CLASSES)))
    >>> _, flow = step(plain, Inputs(0.0), Units.of(1e-9))
    >>> round(float(flow.state_to_gates[1].mean()), 6)  # E[a'^2] at q = 0, so chi = 1.5
    1.0
    """
    in_project = cell.projection[0]
    second, shared = in_project * float(units.second.mean()), in_project * float(np.mean(units.mean**2))
    common = cell.signal_in * inputs.shared + cell.signal_back * shared
    fresh = cell.signal_in * (inputs.second - inputs.shared) + cell.signal_back * (second - shared)
    mean = cell.bias + np.sqrt(np.maximum(common, 0.0))[:, None] * offsets(seed, len(cell.bias))
    return _STEPS[cell.kind](mean, np.maximum(fresh, 0.0), units)


@dataclass(frozen=True, slots=True, eq=False)
class _Gate:
    """Per class, over z ~ N(mean, variance): E[a], E[a^2], and (E[a'], E[a'^2])."""

    mean: Array
    second: Array
    slope: Array

    @property
    def both(self) -> Array:
        """(E[a], E[a^2])."""
        return np.stack((self.mean, self.second))

    @property
    def complement(self) -> Array:
        """(E[1 - a], E[(1 - a)^2])."""
        return np.stack((1 - self.mean, 1 - 2 * self.mean + self.second))


def _gate(kind: str, mean: Array, variance: Array | float) -> _Gate:
    deviation = np.sqrt(np.broadcast_to(variance, mean.shape))
    if kind == "relu":
        at = mean / np.maximum(deviation, 1e-150)
        share, density = normal_cdf(at), normal_density(at)
        return _Gate(
            mean * share + deviation * density,
            (mean**2 + deviation**2) * share + mean * deviation * density,
            np.stack((share, share)),
        )
    z = mean[:, None] + deviation[:, None] * _NODES
    a = np.tanh(z) if kind == "tanh" else sigmoid(z)
    slope = 1 - a**2 if kind == "tanh" else a * (1 - a)
    return _Gate(a @ _WEIGHTS, a**2 @ _WEIGHTS, np.stack((slope @ _WEIGHTS, slope**2 @ _WEIGHTS)))


def _plain(kind: str, mean: Array, variance: Array) -> tuple[Units, Flow]:
    a = _gate(kind, mean[0], variance[0])
    nothing, to_gates = np.zeros(CLASSES), a.slope[:, None]
    flow = Flow(np.ones((2, CLASSES)), np.zeros((2, CLASSES)), to_gates, np.zeros_like(to_gates))
    return Units(a.mean, a.second, nothing, nothing), flow


def _lstm(mean: Array, variance: Array, before: Units) -> tuple[Units, Flow]:
    i, f, o = (_gate("sigmoid", mean[k], variance[k]) for k in (0, 1, 3))
    g = _gate("tanh", mean[2], variance[2])
    cell_mean = f.mean * before.cell_mean + i.mean * g.mean
    cell_second = f.second * before.cell_second + i.second * g.second
    cell_second += 2 * f.mean * i.mean * g.mean * before.cell_mean
    out = _gate("tanh", cell_mean, np.maximum(cell_second - cell_mean**2, 0.0))
    nothing = np.zeros((2, CLASSES))
    remembered = np.stack((before.cell_mean, before.cell_second))
    to_gates = np.stack((g.both * i.slope, remembered * f.slope, i.both * g.slope, nothing), axis=1)
    from_output = np.stack((nothing, nothing, nothing, out.both * o.slope), axis=1)
    after = Units(o.mean * out.mean, o.second * out.second, cell_mean, cell_second)
    return after, Flow(o.both * out.slope, f.both, to_gates, from_output)


def _gru(mean: Array, variance: Array, before: Units) -> tuple[Units, Flow]:
    r, z = (_gate("sigmoid", mean[k], variance[k]) for k in (0, 1))
    u_second = mean[3] ** 2 + variance[3]
    spread = variance[2] + r.second * u_second - (r.mean * mean[3]) ** 2
    n = _gate("tanh", mean[2] + r.mean * mean[3], np.maximum(spread, 0.0))
    second = z.complement[1] * n.second + z.second * before.second
    second += 2 * (z.mean - z.second) * n.mean * before.mean
    difference = np.stack((before.mean - n.mean, n.second + before.second - 2 * n.mean * before.mean))
    new = z.complement * n.slope
    u = np.stack((mean[3], u_second))
    to_gates = np.stack((new * u * r.slope, difference * z.slope, new, new * r.both), axis=1)
    nothing = np.zeros(CLASSES)
    after = Units((1 - z.mean) * n.mean + z.mean * before.mean, second, nothing, nothing)
    return after, Flow(np.ones((2, CLASSES)), z.both, to_gates, np.zeros_like(to_gates))


_STEPS = {
    "tanh": lambda mean, variance, _: _plain("tanh", mean, variance),
    "relu": lambda mean, variance, _: _plain("relu", mean, variance),
    "lstm": _lstm,
    "gru": _gru,
}


def through_time(
    cell: Cell, inputs: Inputs, num_steps: int, start: Units, *, resample: bool = False
) -> list[tuple[Units, Flow]]:
    """All time steps; with `resample`, what is shared differs from step to step (two samples fed alike)."""
    steps: list[tuple[Units, Flow]] = []
    units = start
    for t in range(num_steps):
        after, flow = step(cell, inputs, units, t if resample else 0)
        steps.append((after, flow))
        if not resample and after.change(units) < SETTLED:
            steps += [(after, flow)] * (num_steps - len(steps))
            break
        units = after
    return steps
