"""One time step: nn.RNNCell, nn.LSTMCell, nn.GRUCell; and how a cell's weights look to the theory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from gradtrace.audit.rules.effect import Arrival, Effect, mean_square
from gradtrace.audit.signals import Signal
from gradtrace.theory.recurrence import CLASSES, Cell, Flow, Inputs, Units, offsets, step
from gradtrace.theory.through_time import back_through_time, growth_per_step, last_only

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gradtrace.audit.rules.effect import Scene
    from gradtrace.theory.gaussian import Array

KINDS = {"rnn_tanh": "tanh", "rnn_relu": "relu", "lstm": "lstm", "gru": "gru"}
NUM_GATES = {"tanh": 1, "relu": 1, "lstm": 4, "gru": 3}
ENOUGH_STEPS = 16
"""Like this one, that tell a single cell's growth per time step."""


def cell_of(kind: str, weights: Sequence[Tensor | None], projection: Tensor | None = None) -> Cell:
    """The cell with these `weights`: w_ih [gates H, N], w_hh [gates H, P], b_ih, b_hh [gates H] or None."""
    w_ih, w_hh, b_ih, b_hh = weights
    assert w_ih is not None
    assert w_hh is not None
    gates = NUM_GATES[kind]
    size = w_ih.shape[0] // gates
    default = 1 / (3 * size)
    into = np.array([mean_square(gate, default) for gate in w_ih.chunk(gates)])
    back = np.array([mean_square(gate, default) for gate in w_hh.chunk(gates)])
    bias, bias_back = (_classes(b, gates, size, seed) for seed, b in enumerate((b_ih, b_hh)))
    if kind == "gru":  # the new state's two parts are pre-activations of their own
        into, back = np.append(into, 0.0), np.array([back[0], back[1], 0.0, back[2]])
        bias = np.concatenate((bias[:2] + bias_back[:2], bias[2:], bias_back[2:]))
    else:
        bias = bias + bias_back
    projected = (1.0, 1.0)
    if projection is not None:
        second = mean_square(projection, default)
        projected = (second * projection.shape[1], second * projection.shape[0])
    return Cell(kind, into * w_ih.shape[1], back * w_hh.shape[1], into * size, back * size, bias, projected)


def _classes(bias: Tensor | None, gates: int, size: int, seed: int) -> Array:
    """The biases of as many units as there are classes [gates, CLASSES], evenly taken (or repeated)."""
    if bias is None:
        return np.zeros((gates, CLASSES))
    if bias.is_meta:
        return offsets(seed, gates) * math.sqrt(1 / (3 * size))
    units = np.arange(CLASSES) * size // CLASSES if size >= CLASSES else np.arange(CLASSES) % size
    rows: Array = bias.detach().double().reshape(gates, size).cpu().numpy()[:, units]
    return rows


def carrying(kind: str, size: int) -> int:
    """Units that carry gradient: half of those of ReLU."""
    return max(size // 2, 1) if kind == "relu" else size


def sigma_b2_of(cell: Cell, second: float) -> float:
    """What a plain recurrence has beside its state: the input's share of Var(z), and the bias."""
    return float(np.mean(cell.bias**2) + cell.signal_in.mean() * second)


def signal_of(scene: Scene, tensor: Tensor) -> Signal:
    """As predicted for a value, as observed for other data."""
    slot = scene.slot_of(tensor)
    if slot is not None:
        return scene.signals[slot]
    return Signal(second=mean_square(tensor, 1.0), features=int(tensor.shape[-1]))


def states_of(states: Any) -> tuple[Tensor, ...]:
    """(h,) or an LSTM's (h, c)."""
    return tuple(states) if isinstance(states, list | tuple) else (states,)


def starts_of(scene: Scene, states: Any) -> Units:
    """The state before the first step, the same for all classes of units."""
    seconds = [signal_of(scene, state).second if not state.is_meta else 0.0 for state in states_of(states)]
    return Units.of(*seconds)


def single_cell(scene: Scene) -> Effect | None:
    """nn.RNNCell, nn.LSTMCell, nn.GRUCell: one time step; the state's moments per class of units are handed on."""
    args = scene.step.args
    kind = KINDS[scene.step.function.removesuffix("_cell")]
    x, states = args[0], states_of(args[1])
    weights = (*args[2:6], *(None,) * (6 - len(args)))
    signal = signal_of(scene, x)
    cell = cell_of(kind, weights)
    one, two = next(
        (s.units for s in (signal_of(scene, state) for state in states) if s.units is not None),
        (starts_of(scene, states),) * 2,
    )
    after, flow = step(cell, Inputs(signal.second), one)
    paired, _ = step(cell, Inputs(signal.second, min(max(signal.overlap, 0.0), signal.second)), two, scene.step.index)
    signals: list[Signal | None] = [
        Signal(float(second.mean()), float(mean.mean()), min(float(np.mean(pair**2)), float(second.mean())),
               int(weights[1].shape[-1]), units=(after, paired))
        for second, mean, pair in ((after.second, after.mean, paired.mean),
                                   (after.cell_second, after.cell_mean, paired.cell_mean))
    ]  # fmt: skip
    slots = [scene.slot_of(tensor) for tensor in (x, *states)]
    weight = float(cell.gradient_in.sum())
    own = float(back_through_time(cell, [flow], last_only(1)).inputs[0, 0])
    return Effect(
        signals[: len(scene.outputs)],
        [{"weights": weight, "activation": own / weight if weight else 0.0} for _ in scene.inputs],
        fan=(int(weights[0].shape[1]), int(weights[1].shape[-1])),
        gain=math.sqrt(float(cell.gradient_back.mean())),
        sigma_b2=sigma_b2_of(cell, signal.second),
        activation=kind,
        units=carrying(kind, int(weights[1].shape[-1])),
        transport=_cell_arrival(cell, flow, slots),
        time_growth=growth_per_step(cell, [flow] * ENOUGH_STEPS),
        num_steps=1,
    )


def _cell_arrival(cell: Cell, flow: Flow, slots: list[int | None]) -> Callable[[int, int, Array | None], Arrival]:
    def arrival(slot: int, output: int, profile: Array | None) -> Arrival:
        given = profile if profile is not None and len(profile) == CLASSES else np.ones(CLASSES)
        state = given if output == 1 else flow.output_to_state[1] * given
        received = flow.output_to_gates[1] * given if output == 0 else 0.0
        gates = (flow.state_to_gates[1] * state + received).mean(axis=1)
        which = slots.index(slot)
        if which == 0:
            shape = math.log(cell.gradient_in[0] / cell.signal_in[0])
            return Arrival(float(cell.gradient_in @ gates), None, 0.0, shape)
        carried = flow.state_to_state[1] * state
        energies = carried if which == 2 else np.zeros(CLASSES) + float(cell.gradient_back @ gates)
        if which == 1 and cell.kind != "lstm":
            energies = energies + carried
        growth = float(energies.mean())
        return Arrival(growth, energies / growth if growth > 0 else None, 1.0)

    return arrival
