"""Recurrences: nn.RNN, nn.LSTM, nn.GRU, one function through all layers and time steps; for cells see `cells`.

The theory is `gradtrace.theory.recurrence`; here second moments are read off, directions and layers put together, and
the gradient is sent back from where it arrives: only the last step's output, say, or all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from gradtrace.audit.rules.cells import (
    KINDS,
    NUM_GATES,
    carrying,
    cell_of,
    sigma_b2_of,
    signal_of,
    starts_of,
    states_of,
)
from gradtrace.audit.rules.effect import Arrival, Effect
from gradtrace.audit.signals import Signal
from gradtrace.theory.recurrence import (
    CLASSES,
    Cell,
    Flow,
    Inputs,
    Units,
    through_time,
)
from gradtrace.theory.through_time import Returned, back_through_time, band, growth_per_step, last_only, reverse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.audit.rules.effect import Scene
    from gradtrace.theory.gaussian import Array

NUDGE = 0.01
"""Relative change of Var(w_hh) by which the number of steps that the gradient has come is found."""


@dataclass(slots=True, eq=False)
class _Layer:
    """One layer in one direction."""

    cell: Cell
    steps: list[tuple[Units, Flow]]

    def back(self, outputs: Array, final_state: float, nudge: float) -> Returned:
        """What the inputs and the first state get; `outputs` in the order of processing."""
        cell = replace(self.cell, gradient_back=self.cell.gradient_back * (1 + nudge))
        return back_through_time(cell, [flow for _, flow in self.steps], outputs, final_state)


def sequence(scene: Scene) -> Effect | None:
    """nn.RNN, nn.LSTM, nn.GRU on a padded batch; packed sequences have no rule."""
    args = scene.step.args
    if len(args) < 9 or not isinstance(args[2], list | tuple) or args[0].dim() != 3:
        return None
    x, states, weights, has_biases, num_layers, dropout, training, both, batch_first = args[:9]
    kind = KINDS[scene.step.function]
    axis = 1 if batch_first else 0
    num_steps, directions = x.shape[axis], 2 if both else 1
    signal = signal_of(scene, x)
    share, kept = _time_share(x, axis), 1 / (1 - dropout) if training and dropout < 1 else 1.0
    starts, size = starts_of(scene, states), weights[0].shape[0] // NUM_GATES[kind]
    layers: list[list[_Layer]] = []
    for index, group in enumerate(_grouped(weights, kind, has_biases, states, num_layers)):
        one = [
            _run(cell_of(kind, four, projection), size, signal, share, num_steps, starts, scene.batch_size)
            for four, projection in group
        ]
        layers.append([layer for layer, _, _ in one])
        signal, share = _joined([after for _, after, _ in one]), sum(s for _, _, s in one) / directions
        if index < num_layers - 1:
            signal = replace(signal, second=signal.second * kept)
    signal = replace(signal, features=int(scene.outputs[0].shape[-1]))
    back = _Backward(layers, num_steps, kept, [scene.slot_of(t) for t in (x, *states_of(states))])
    cells = [layer.cell for layer in layers[0]]
    weight = sum(float(cell.gradient_in.sum()) for cell in cells)
    single = _single(layers[0])
    rates = [growth_per_step(layer.cell, [flow for _, flow in layer.steps]) for pair in layers for layer in pair]
    return Effect(
        [signal, *_final(layers, signal, kind)],
        [{"weights": weight, "activation": single / weight if weight else 0.0} for _ in scene.inputs],
        fan=(int(x.shape[-1]), int(weights[1].shape[-1])),
        units=carrying(kind, int(weights[1].shape[-1])),
        num_layers=num_layers,
        gain=math.sqrt(float(cells[0].gradient_back.mean())),
        sigma_b2=sigma_b2_of(cells[0], signal_of(scene, x).second),
        activation=kind,
        transport=back.arrival,
        time_growth=max(rates),
        num_steps=num_steps,
    )


def _time_share(x: Tensor, axis: int) -> float:
    """E[x_s x_t] of two different steps over E[x^2]; 0 where it cannot be known."""
    num_steps = x.shape[axis]
    if x.is_meta or num_steps < 2:
        return 0.0
    values = x.detach().double()
    second = float(values.square().mean())
    together = float(values.sum(axis).square().mean()) / num_steps
    return min(max((together / second - 1) / (num_steps - 1), 0.0), 1.0) if second > 0 else 0.0


def _grouped(
    weights: Sequence[Tensor], kind: str, has_biases: bool, states: Any, num_layers: int
) -> list[list[tuple[list[Tensor | None], Tensor | None]]]:
    """Per layer, per direction: the four weights and an LSTM's projection."""
    size = weights[0].shape[0] // NUM_GATES[kind]
    projected = kind == "lstm" and states_of(states)[0].shape[-1] != size
    count = 2 + 2 * bool(has_biases) + projected
    cells = [weights[i : i + count] for i in range(0, len(weights), count)]
    parts: list[tuple[list[Tensor | None], Tensor | None]] = [
        ([*cell[:4]] if has_biases else [cell[0], cell[1], None, None], cell[-1] if projected else None)
        for cell in cells
    ]
    per_layer = len(parts) // num_layers
    return [parts[i : i + per_layer] for i in range(0, len(parts), per_layer)]


def _run(
    cell: Cell, size: int, signal: Signal, share: float, num_steps: int, start: Units, batch_size: int
) -> tuple[_Layer, Signal, float]:
    """Through time twice: with what one sample's steps share, and with what two samples share."""
    second = signal.second
    steps = through_time(cell, Inputs(second, second * share), num_steps, start)
    distinct = len({id(flow) for _, flow in steps})
    common = min(max(signal.overlap, 0.0), second)
    paired = through_time(cell, Inputs(second, common), min(num_steps, distinct + CLASSES // 8), start, resample=True)
    project = cell.projection[0]
    after = project * float(np.mean([units.second.mean() for units, _ in steps]))
    overlap = project * float(np.mean([np.mean(units.mean**2) for units, _ in paired]))
    mean = float(np.mean([units.mean.mean() for units, _ in steps])) if cell.kind == "relu" else 0.0
    lasting = project * float(np.mean([np.mean(units.mean**2) for units, _ in steps]))
    share = lasting / after if after > 0 else 0.0
    again = min(float(cell.signal_back[0] * steps[-1][1].state_to_gates[1].mean()), 0.9) if len(cell.bias) == 1 else 0.0
    scatter = 2 / size * (share + 1 / max(batch_size, 1)) / (1 - again) ** 2  # what lasts meets the same weights again
    return _Layer(cell, steps), Signal(after, mean, min(overlap, after), 1, log_variance=scatter), share


def _joined(signals: list[Signal]) -> Signal:
    """Both directions side by side."""
    count = len(signals)
    return Signal(
        sum(s.second for s in signals) / count,
        sum(s.mean for s in signals) / count,
        sum(s.overlap for s in signals) / count,
        1,
        signals[0].log_variance,
    )


def _final(layers: list[list[_Layer]], signal: Signal, kind: str) -> list[Signal | None]:
    """h_n, and an LSTM's c_n."""
    last = [layer.steps[-1][0] for pair in layers for layer in pair]
    share = signal.overlap / signal.second if signal.second > 0 else 0.0
    seconds = [float(np.mean([units.second.mean() for units in last])) * layers[0][0].cell.projection[0]]
    if kind == "lstm":
        seconds.append(float(np.mean([units.cell_second.mean() for units in last])))
    return [Signal(second, overlap=share * second) for second in seconds]


def _single(pair: list[_Layer]) -> float:
    """Growth from a step's output to that step's own input."""
    one = last_only(1)
    return sum(float(back_through_time(x.cell, [x.steps[-1][1]], one).inputs[0, 0]) for x in pair)


class _Backward:
    """Sends gradient back through layers, directions and time; linear, so output by output."""

    def __init__(self, layers: list[list[_Layer]], num_steps: int, kept: float, slots: list[int | None]) -> None:
        self._layers, self._num_steps, self._kept, self._slots = layers, num_steps, kept, slots
        self._known: dict[tuple[int, bytes | None, float], list[Array]] = {}

    def arrival(self, slot: int, output: int, profile: Array | None) -> Arrival:
        """What the gradient of one output becomes at one input."""
        which = self._slots.index(slot)
        found, nudged = (self._energies(output, profile, nudge)[which] for nudge in (0.0, NUDGE))
        growth, more = (float(np.mean(energies if which else energies[:, 0])) for energies in (found, nudged))
        if not growth > 0:
            return Arrival(0.0)
        shape = math.log(self._layers[0][0].cell.gradient_in[0] / self._layers[0][0].cell.signal_in[0])
        steps = math.log(more / growth) / math.log1p(NUDGE)
        return Arrival(growth, found / growth, steps, 0.0 if which else shape)

    def _energies(self, output: int, profile: Array | None, nudge: float) -> list[Array]:
        key = (output, profile.tobytes() if profile is not None else None, nudge)
        if key not in self._known:
            self._known[key] = self._send(output, profile, nudge)
        return self._known[key]

    def _send(self, output: int, profile: Array | None, nudge: float) -> list[Array]:
        """The input's covariance [T, lags], the energies of the first h [layers x directions] and of the first c."""
        even, num_cells = band(self._num_steps), len(self._layers[0]) * len(self._layers)
        if output == 0:
            arriving = profile if profile is not None and profile.shape == even.shape else even
            given = np.zeros(num_cells)
        else:
            arriving = np.zeros_like(even)
            given = profile[:, 0] if profile is not None and len(profile) == num_cells else np.ones(num_cells)
        first_h, first_c = np.zeros(num_cells), np.zeros(num_cells)
        for index in reversed(range(len(self._layers))):
            below = np.zeros_like(even)
            for direction, layer in enumerate(self._layers[index]):
                place = index * len(self._layers[0]) + direction
                outputs = reverse(arriving) if direction else arriving.copy()
                outputs[-1, 0] += given[place] if output == 1 else 0.0
                found = layer.back(outputs, float(given[place]) if output == 2 else 0.0, nudge)
                first_h[place], first_c[place] = found.output, found.state
                below += reverse(found.inputs) if direction else found.inputs
            arriving = below
            arriving[:, 0] *= self._kept if index else 1.0  # two steps drop different units
        return [arriving, first_h, first_c]
