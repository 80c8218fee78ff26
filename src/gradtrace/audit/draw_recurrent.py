"""How are the weights of a recurrence drawn, so that the gradient reaches back through all of its time steps?

Plain: orthogonal W_hh with sigma_w^2 = 1 / E[a'^2], so that chi = 1 per step, and the input in the place of the random
bias: its share of Var(z) is what the critical point leaves for it, sigma_b^2 = 1 - sigma_w^2 E[a^2]. ReLU leaves none,
and adds up its inputs: each of T steps gets 1 / T.

Gated: orthogonal W_hh per gate, unit variance from the input, and chrono biases, which spread the memory of the gates
from 1 to T steps: b_f ~ ln U(1, T - 1), b_i = -b_f (Tallec & Ollivier, Can recurrent neural networks warp time?, 2018).

Source: Chen, Pennington & Schoenholz, Dynamical isometry and a mean field theory of RNNs (2018), section 3.4.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from gradtrace.audit.critical_point import critical_point
from gradtrace.audit.draw import orthogonal
from gradtrace.audit.rules.cells import NUM_GATES, cell_of
from gradtrace.theory.nonlinearities import nonlinearity
from gradtrace.theory.recurrence import Inputs, Units, through_time

if TYPE_CHECKING:
    from torch import Generator, Tensor


def recurrent_(
    module: nn.RNNBase | nn.RNNCellBase, second: float, horizon: int, generator: Generator | None
) -> list[tuple[str, str, float]]:
    """Initialise in place for inputs of this mean square and so many time steps: (parameter, what was done, gain).

    >>> done = recurrent_(nn.RNN(8, 32), 1.0, 50, torch.Generator().manual_seed(0))
    >>> [(name, round(gain, 3)) for name, _, gain in done[:2]]  # 1 / sqrt(E[tanh'^2]), and what it leaves
    [('weight_ih_l0', 0.389), ('weight_hh_l0', 1.467)]
    """
    kind = _kind(module)
    own = dict(module.named_parameters())
    done: list[tuple[str, str, float]] = []
    layers = sorted({name.partition("_l")[2].removesuffix("_reverse") for name in own})
    for layer in layers:
        names = [name for name in own if name.partition("_l")[2].removesuffix("_reverse") == layer]
        for name in names:
            if own[name].requires_grad:
                done += _draw(name, own[name], kind, second, max(horizon, 3), generator)
        forward = [own.get(f"{part}_l{layer}" if layer else part) for part in _PARTS]
        steps = through_time(cell_of(kind, forward[:4], forward[4]), Inputs(second), horizon, Units.of())
        second = float(np.mean([units.second.mean() for units, _ in steps]))
    return done


_PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


def _kind(module: nn.Module) -> str:
    name = type(module).__name__.removesuffix("Cell").lower()
    return name if name in NUM_GATES else str(getattr(module, "nonlinearity", "tanh"))


def _draw(
    name: str, parameter: Tensor, kind: str, second: float, horizon: int, generator: Generator | None
) -> list[tuple[str, str, float]]:
    gates = NUM_GATES[kind]
    with torch.no_grad():
        if parameter.dim() == 1:
            parameter.zero_()
            if gates > 1 and name.startswith("bias_ih"):
                return [(name, _chrono_(parameter, gates, horizon, generator), math.nan)]
            return [(name, "zero", math.nan)]
        if name.startswith("weight_hr"):
            parameter.copy_(orthogonal(parameter, generator))
            return [(name, "orthogonal", 1.0)]
        into, back = _variances(kind, second, horizon)
        if name.startswith("weight_hh"):
            for gate in parameter.chunk(gates):
                gate.copy_(orthogonal(gate, generator) * math.sqrt(back))
            return [(name, "orthogonal" + (f", {gates} gates" if gates > 1 else ""), math.sqrt(back))]
        parameter.normal_(0.0, math.sqrt(into / parameter.shape[1]), generator=generator)
    return [(name, "gaussian", math.sqrt(into))]


def _variances(kind: str, second: float, horizon: int) -> tuple[float, float]:
    """fan_in Var(w_ih) and fan_in Var(w_hh)."""
    second = second if second > 0 else 1.0
    if NUM_GATES[kind] > 1:
        return 1 / second, 1.0
    point = critical_point(nonlinearity(kind))
    return (point.sigma_b2 if point.sigma_b2 > 1e-6 else 1 / horizon) / second, point.sigma_w2


def _chrono_(bias: Tensor, gates: int, horizon: int, generator: Generator | None) -> str:
    size = bias.shape[0] // gates
    memory = torch.empty(size, device=bias.device).uniform_(1.0, horizon - 1.0, generator=generator).log()
    if gates == 4:  # torch's order: input, forget, cell, output
        bias[:size], bias[size : 2 * size] = -memory, memory
    else:  # reset, update, new; h = (1 - z) n + z h
        bias[size : 2 * size] = memory
    return f"chrono: gates remember 1 to {horizon} steps"
