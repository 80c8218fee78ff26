"""Parameters of torch's recurrences drawn anew: orthogonal maps gate by gate, gates that stay open (chrono).

What `gradtrace.audit.draw_recurrent` does to a module, parameter by parameter, so that the lines of a patch do the
same as the trial. Saxe et al. (2014); Tallec & Ollivier, Can recurrent neural networks warp time? (2018), equation 16.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from gradtrace.audit.draw import orthogonal
from gradtrace.audit.draw_recurrent import recurrent_
from gradtrace.records.change import Draw

if TYPE_CHECKING:
    from torch import Tensor, nn

GATES, CHRONO, OPEN = "gates", "chrono", "open"


def recurrent_draws(path: str, module: nn.RNNBase | nn.RNNCellBase, horizon: float) -> tuple[Draw, ...]:
    """Every parameter of a recurrence for inputs of unit scale and so many time steps; the module is left alone."""
    told = recurrent_(copy.deepcopy(module), 1.0, int(horizon), torch.Generator(next(module.parameters()).device))
    return tuple(recurrent_draw(f"{path}.{name}".lstrip("."), what, gain, horizon) for name, what, gain in told)


def recurrent_draw(name: str, what: str, gain: float, horizon: float) -> Draw:
    """From what `recurrent_` tells of a parameter.

    >>> recurrent_draw("rnn.weight_hh_l0", "orthogonal, 4 gates", 1.0, 60.0).how
    'gates'
    >>> recurrent_draw("rnn.bias_ih_l0", "chrono: gates remember 1 to 60 steps", float("nan"), 60.0).value
    60.0
    """
    if what.startswith("orthogonal"):
        return Draw(name, GATES, float(f"{gain:.3g}"))
    if what.startswith("gaussian"):
        return Draw(name, "gaussian", float(f"{gain:.3g}"))
    return Draw(name, CHRONO, max(float(horizon), 3.0)) if what.startswith("chrono") else Draw(name, "constant", 0.0)


def draw_gates_(parameter: Tensor, size: int, gain: float, generator: torch.Generator) -> None:
    """Each gate's map orthogonal times the gain, in place; `size` is the module's hidden size."""
    on_cpu = torch.empty(parameter.shape)
    for gate in on_cpu.chunk(_num_gates(parameter, size)):
        gate.copy_(orthogonal(gate, generator) * gain)
    parameter.copy_(on_cpu)


def draw_chrono_(bias: Tensor, size: int, horizon: float, generator: torch.Generator) -> None:
    """b_f = ln u, u ~ U(1, T - 1), and b_i = -b_f, in place; a GRU's update gate is what keeps."""
    memory = torch.empty(size).uniform_(1.0, horizon - 1.0, generator=generator).log().to(bias)
    bias.zero_()
    bias[size : 2 * size] = memory
    if bias.numel() == 4 * size:  # an LSTM's: input, forget, cell, output
        bias[:size] = -memory


def draw_open_(bias: Tensor, rows: tuple[int, int], horizon: float, generator: torch.Generator) -> None:
    """The same for the entries `rows` of a bias, which open the gate of a recurrence written by hand; in place."""
    memory = torch.empty(rows[1] - rows[0]).uniform_(1.0, horizon - 1.0, generator=generator)
    bias[rows[0] : rows[1]] = memory.log().to(bias)


def _num_gates(parameter: Tensor, size: int) -> int:
    return max(parameter.shape[0] // size, 1)


def recurrent_code(draws: Sequence[Draw]) -> list[str]:
    """The same, as lines within ``with torch.no_grad():``."""
    lines = [
        f"    model.get_parameter({d.name!r})[{d.rows[0]}:{d.rows[1]}].uniform_(1.0, {d.value - 1.0:g}).log_()"
        for d in draws
        if d.how == OPEN
    ]
    for how, value in dict.fromkeys((draw.how, draw.value) for draw in draws if draw.how in (GATES, CHRONO)):
        names = [draw.name for draw in draws if (draw.how, draw.value) == (how, value)]
        lines += [
            f"    for name in {names!r}:",
            "        value, size = model.get_parameter(name), model.get_submodule(name.rpartition('.')[0]).hidden_size",
        ]
        if how == GATES:
            lines += [
                "        for gate in value.chunk(max(value.shape[0] // size, 1)):",
                f"            torch.nn.init.orthogonal_(gate, gain={value:g})",
            ]
        else:
            lines += [
                f"        memory = torch.empty(size).uniform_(1.0, {value - 1.0:g}).log().to(value)",
                "        value.zero_()",
                "        value[size : 2 * size] = memory",
                "        if value.numel() == 4 * size:",
                "            value[:size] = -memory",
            ]
    return lines
