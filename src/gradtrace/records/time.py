"""The gradient through time: what each step of a recurrence passed on, and how far back any gradient reaches.

One step takes L'(h_t) to L'(h_{t-1}); its gain is a product of three, which telescopes exactly over the sequence:

    |L'(h_{t-1})|     |L'(r_t)|     |W_hh^T L'(r_t)|        |L'(h_{t-1})|
    -------------  =  ----------- . ------------------ . -------------------      r_t = W_hh h_{t-1} + b_hh
      |L'(h_t)|        |L'(h_t)|        |L'(r_t)|         |W_hh^T L'(r_t)|

    activation (tanh', gates)  recurrent weights   merge (losses and layers above, the carry)

What draws what, from a saved record alone (`Diagnosis.through_time`, `Trace.through_time`, or a file of its own):

- gradient by step: `Chain.states` over t = 0 to T (log scale), `Chain.cuts` as marks; per step `Chain.gains(t)` and,
  for gated cells, `Chain.carry_gain(t)`; an LSTM's two paths are `Chain.hidden` and `Chain.cell`;
- heat map: `Chain.reach.rows[i]` is the row of t = `Chain.reach.targets[i]` over s = 0 to t; with the user's own losses
  per step `ThroughTime.losses`, and for positions of an input the same, named by `ThroughTime.positions`;
- horizon: `Chain.reach.curve()` over the lag, with lines at -3 and at log10(1/2), and `Chain.horizon`;
- exponents: `ThroughTime.spectra`, each `exponents` with `errors` (in nats per step) over their rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.records.horizon import Horizon, horizon
from gradtrace.records.lyapunov import LyapunovSpectrum
from gradtrace.records.shown import Columns, Kept, counted, rendered

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, repr=False)
class Reach:
    """The heat map |dL_t / ds_s|: how the gradient of what happens at t arrives at each s <= t."""

    source: str
    """What L_t is: 'random' (a random cotangent at h_t), 'cotangent' (the user's), or 'loss' (the user's L_t)."""
    targets: tuple[int, ...]
    """The t's that were measured."""
    rows: tuple[tuple[float, ...], ...]
    """Per target, the norm at s = 0 (the initial state) to s = t; of h and c together in an LSTM."""
    starts: tuple[int, ...] = ()
    """Per target, the first s that its gradient can reach, behind a cut (a detached state); () where nothing is cut."""

    def __repr__(self) -> str:
        return f"<Reach of the {self.source} gradient: {counted(len(self.targets), 'target')}>"

    def curve(self) -> tuple[float, ...]:
        """Median over the targets of log10 |dL_t/ds_{t-k}| / |dL_t/ds_t|, for each lag k from 0; cuts left out.

        >>> Reach("random", (2,), ((0.25, 0.5, 1.0),)).curve()
        (0.0, -0.3010299956639812, -0.6020599913279624)
        """
        found = []
        rows = [row[start:] for row, start in zip(self.rows, self.starts or (0,) * len(self.rows), strict=True)]
        for lag in range(max(map(len, rows), default=0)):
            ratios = sorted(_log10(row[-1 - lag], row[-1]) for row in rows if len(row) > lag and row[-1] != 0)
            if ratios:
                half = len(ratios) // 2
                found.append(ratios[half] if len(ratios) % 2 else _middle(ratios[half - 1], ratios[half]))
        return tuple(found)

    def horizon(self) -> Horizon:
        """Where the curve has fallen to 1e-3, and to a half."""
        return horizon(self.curve())


@dataclass(frozen=True, slots=True, repr=False)
class Chain:
    """One recurrence: a layer in one direction, step by step in the order of processing."""

    module: str
    """Path of the module, or name of the weight that a loop of the user's applies again and again."""
    module_type: str
    kind: str
    """'rnn_tanh', 'rnn_relu', 'lstm', 'gru', or 'loop'."""
    layer: int
    direction: str
    """'forward', or 'backward' (its step 1 reads the last element)."""
    call: int
    """Which call of the module it began with."""
    hidden: tuple[float, ...]
    """|L'(h_t)| for t = 0 (the initial state) to T."""
    linear: tuple[float, ...]
    """|L'(r_t)| for t = 1 to T."""
    recurrent: tuple[float, ...]
    """|W_hh^T L'(r_t)| for t = 1 to T: what came back to h_{t-1} through the recurrent weights."""
    cell: tuple[float, ...] = ()
    """|L'(c_t)| for t = 0 to T, of an LSTM."""
    carried: tuple[float, ...] = ()
    """What came back to t-1 along the carry (forget gate, update gate), for t = 1 to T."""
    read: tuple[float, ...] = ()
    """What came to c_t by way of h_t, for t = 1 to T, of an LSTM."""
    cuts: tuple[int, ...] = ()
    """Steps t whose state was handed on without the tape (detached)."""
    detached_start: bool = False
    """True where a state that is not zero came in without gradient: truncated back-propagation."""
    singular_value: float = math.nan
    """Largest of W_hh."""
    num_weights: int = 1
    inputs: str = "varying"
    """What a step takes in beside the state: 'varying' (time goes on), 'same' (an iteration towards a fixed point) or
    'none' (shared depth)."""
    reach: Reach | None = None

    def __repr__(self) -> str:
        return f"<Chain {self.name!r} ({self.kind}): {counted(self.num_steps, 'step')}>"

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.linear)

    @property
    def name(self) -> str:
        """``rnn``, ``rnn layer 1, backward``."""
        name = self.module or self.module_type or "the model"
        name += f" layer {self.layer}" if self.layer else ""
        return name + (", backward" if self.direction == "backward" else "")

    def gains(self, t: int) -> tuple[float, float, float]:
        """Decades of (activation, recurrent weights, merge) of step `t`, 1 to T; their sum is that of the step."""
        after, linear, back, before = self.hidden[t], self.linear[t - 1], self.recurrent[t - 1], self.hidden[t - 1]
        return _log10(linear, after), _log10(back, linear), _log10(before, back)

    def budget(self) -> dict[str, float]:
        """Decades over the T steps, by factor; they sum to log10 |L'(h_0)| / |L'(h_T)|.

        The steps of `counted` alone. {} where what came back through the weights was not measured alone (several that
        read one state of a loop).
        """
        if any(map(math.isnan, self.recurrent)):
            return {}
        gains = [self.gains(t) for t in self.counted]
        return {name: math.fsum(g[i] for g in gains) for i, name in enumerate(("activation", "weights", "merge"))}

    @property
    def counted(self) -> tuple[int, ...]:
        """The steps t that hand on a gradient: down to where nothing is left (float32 ends at 1.4e-45)."""
        return tuple(t for t in range(1, self.num_steps + 1) if all(map(math.isfinite, self.gains(t))))

    def carry_gain(self, t: int) -> float:
        """Decades of the carry of step `t`: |f L'(c_t)| / |L'(c_t)| of an LSTM, |z L'(h_t)| / |L'(h_t)| of a GRU."""
        return _log10(self.carried[t - 1], (self.cell or self.hidden)[t]) if self.carried else math.nan

    def carry_share(self, t: int) -> float:
        """Of L'(c_{t-1}), the share <g_carry, g>/|g|^2 that came along the carry (LSTM, t = 2 to T); NaN elsewhere."""
        if not self.cell or t < 2 or not self.cell[t - 1]:
            return math.nan
        whole, carried, read = self.cell[t - 1] ** 2, self.carried[t - 1] ** 2, self.read[t - 2] ** 2
        return (whole + carried - read) / (2 * whole)

    @property
    def span(self) -> tuple[int, int]:
        """(first, last) t that the loss gradient travels between: from the last state that is read, back to a cut."""
        last = max((t for t, x in enumerate(self.states) if x != 0.0), default=0)
        return max((cut + 1 for cut in self.cuts if cut < last), default=0), last

    @property
    def horizon(self) -> Horizon | None:
        """How far back a random gradient at a state reaches; None where it was not measured."""
        return self.reach.horizon() if self.reach is not None else None

    @property
    def own_horizon(self) -> Horizon:
        """How far back the loss gradient itself goes, from the last state that is read.

        Farther than a random one where earlier steps have losses of their own, whose gradient is in it: that it is long
        proves nothing. It is what is known where no random gradient was sent.
        """
        first, last = self.span
        return horizon(tuple(_log10(x, self.states[last]) for x in self.states[first : last + 1][::-1]))

    @property
    def states(self) -> tuple[float, ...]:
        """Norm of the gradient of the whole state, (h, c) in an LSTM, for t = 0 to T."""
        if not self.cell:
            return self.hidden
        return tuple(math.hypot(h, c) for h, c in zip(self.hidden, self.cell, strict=True))


@dataclass(frozen=True, slots=True, repr=False)
class ThroughTime(Kept):
    """One backward pass, step by step in time."""

    title: str
    loss: float
    """Value of the loss; of losses per step their sum."""
    gradient_norm: float
    """Of all parameters together."""
    chains: tuple[Chain, ...] = ()
    losses: tuple[Reach, ...] = ()
    """|dL_t/ds_s| of the user's losses per step, one per chain; or |dL_t/dx_s| where there is no recurrence."""
    positions: str = ""
    """What x_s is where there is no recurrence, as ``the input``."""
    spectra: tuple[LyapunovSpectrum, ...] = ()
    """Lyapunov exponents of chains of RNN, LSTM and GRU steps."""
    sentences: tuple[str, ...] = ()
    """How far each chain reaches, and what was cut."""
    notes: tuple[str, ...] = ()
    """What was not measured, and why."""

    @property
    def horizon(self) -> Horizon | None:
        """The shortest of all chains (or of the positions)."""
        reaches = [chain.reach for chain in self.chains if chain.reach] or list(self.losses if self.positions else ())
        found = [reach.horizon() for reach in reaches]
        known = [one for one in found if not math.isnan(one.steps)]
        return min(known or found, key=lambda h: h.steps, default=None)

    def spectrum_of(self, chain: Chain) -> LyapunovSpectrum | None:
        """The exponents of a chain, if they were measured."""
        key = (chain.module, chain.kind, chain.layer, chain.direction)
        return next((s for s in self.spectra if (s.module, s.kind, s.layer, s.direction) == key), None)

    def __repr__(self) -> str:
        steps = f" of {counted(max(chain.num_steps for chain in self.chains), 'step')}" if self.chains else ""
        return f"<ThroughTime {self.title!r}: {counted(len(self.chains), 'recurrence')}{steps}, loss {self.loss:.4g}>"

    def plot(self, *, columns: Columns = 2) -> Figure:
        """Gradient by step, by lag and as a map, for a paper: a matplotlib figure one or two columns wide.

        Raises:
            InputError: there is nothing to draw, or matplotlib is not installed (``pip install '.[figures]'``).
        """
        figure: Figure = rendered(self, "plot", columns=columns)
        return figure

    def to_json(self) -> str:
        """All of it as strict JSON."""
        return str(rendered(self, "json"))


def _middle(a: float, b: float) -> float:
    return a if a == b else (a + b) / 2


def _log10(a: float, b: float) -> float:
    """log10(a / b); -inf and inf for zeros, NaN for 0/0 and for numbers that are not finite."""
    if not (math.isfinite(a) and math.isfinite(b)) or (a == 0.0 and b == 0.0):
        return math.nan
    if a == 0.0 or b == 0.0:
        return -math.inf if a == 0.0 else math.inf
    return math.log10(a) - math.log10(b)
