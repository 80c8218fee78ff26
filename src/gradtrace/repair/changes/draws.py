"""How parameters are drawn anew: what `init_critical_` draws, as numbers; in place on a copy; and as lines of torch.

Var(w) = gain^2 / fan_in
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from gradtrace.audit.draw import draw_
from gradtrace.audit.initialise import init_critical_
from gradtrace.records.change import Draw
from gradtrace.repair.changes.recurrent_draws import (
    CHRONO,
    GATES,
    OPEN,
    draw_chrono_,
    draw_gates_,
    draw_open_,
    recurrent_code,
    recurrent_draw,
)
from gradtrace.repair.rewriting import rewritten
from gradtrace.repair.twin import RefusalError, Twin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.repair.situation import Situation

_DRAWN = {"lsuv": "orthogonal"}
"""What LSUV scales: its scales are those of the batch, layer by layer, and are kept as numbers."""


def critical_draws(twin: Twin, situation: Situation, method: str) -> tuple[Draw, ...]:
    """What `init_critical_` does to this copy, as numbers that need no example input any more."""
    if situation.example is None:
        raise RefusalError("loss_fn does not call the model itself, so its weights cannot be drawn for its input")
    with rewritten(twin.model, tuple(twin.rules)):
        done = init_critical_(twin.model, situation.example, method=method, generator=twin.generator)
    draws = []
    for parameter in done.parameters:
        module_path, _, name = parameter.name.rpartition(".")
        module = twin.model.get_submodule(module_path)
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            told = parameter.name, parameter.method, parameter.gain
            draws.append(recurrent_draw(*told, _horizon(parameter.reason)))
            continue
        value = twin.model.get_parameter(parameter.name)
        if value.dim() > 1 and not math.isnan(parameter.gain):
            measured = math.nan if method == "lsuv" else parameter.gain
            turned = parameter.rows_are_inputs
            gain = _gain(measured, value.transpose(0, 1) if turned else value)
            draws.append(Draw(parameter.name, _DRAWN.get(method, method), gain, turned))
        elif name.endswith("bias") and "mean" in parameter.reason:
            draws.append(Draw(parameter.name, "centred", _mean_taken_out(module)))
        elif "std" in parameter.method:
            draws.append(Draw(parameter.name, "normal", float(parameter.method.rpartition(" ")[2])))
        else:
            draws.append(Draw(parameter.name, "constant", round(float(value.detach().double().mean()), 6)))
    return _alike(draws)


def _gain(gain: float, units: torch.Tensor) -> float:
    """As it was told; of a convolution, and where none was told, as it was drawn. To two digits: chance has more."""
    if units.dim() > 2 or math.isnan(gain):
        gain = math.sqrt(float(units.detach().double().square().mean()) * units[0].numel())
    return float(f"{gain:.2g}")


NEAR = 1.05
"""Gains closer than this factor are written as one: no training can tell them apart."""


def _alike(draws: Sequence[Draw]) -> tuple[Draw, ...]:
    """Gains within a few percent are the most common one, spreads and means of biases their median to two digits.

    What comes out are lines that a person would write, and it is these that are tried.
    """
    for how in ("normal", "centred"):
        values = [draw.value for draw in draws if draw.how == how]
        usual = float(f"{statistics.median(values):.2g}") if values else 0.0
        draws = [replace(draw, value=usual) if draw.how == how else draw for draw in draws]
    gains = Counter(draw.value for draw in draws if draw.how in ("gaussian", "orthogonal"))
    if not gains:
        return tuple(draws)
    usual = gains.most_common(1)[0][0]
    near = [1 / NEAR <= draw.value / usual <= NEAR and draw.how in ("gaussian", "orthogonal") for draw in draws]
    return tuple(replace(d, value=usual) if is_near else d for d, is_near in zip(draws, near, strict=True))


def _horizon(reason: str) -> float:
    """``recurrent, 60 steps``."""
    return float(next((word for word in reason.split() if word.isdigit()), "3"))


def _mean_taken_out(module: nn.Module) -> float:
    """M of b = -m W 1, by least squares."""
    sums = module.weight.detach().double().flatten(1).sum(1)  # type: ignore[operator]
    bias = module.bias.detach().double()  # type: ignore[operator]
    return float(-(bias @ sums) / (sums @ sums))


def guilty_draws(draws: Sequence[Draw], where: Sequence[str]) -> tuple[Draw, ...]:
    """Those of the modules (or parameters) to blame."""
    owners = set(where)
    return tuple(d for d in draws if d.name in owners or (d.name.rpartition(".")[0] or d.name) in owners)


def draw_all(draws: Sequence[Draw], twin: Twin) -> None:
    """In place, with the twin's own random numbers; the optimizer forgets what it knew of them."""
    changed: list[nn.Parameter] = []
    for draw in draws:
        parameter = twin.model.get_parameter(draw.name)
        with torch.no_grad():
            _draw(draw, parameter, twin)
        changed.append(parameter)
    twin.forget(changed)


def _draw(draw: Draw, parameter: nn.Parameter, twin: Twin) -> None:
    if draw.how == "constant":
        parameter.fill_(draw.value)
    elif draw.how == "normal":
        parameter.copy_(torch.empty(parameter.shape).normal_(0.0, draw.value, generator=twin.generator))
    elif draw.how in (GATES, CHRONO):
        size = twin.model.get_submodule(draw.name.rpartition(".")[0]).hidden_size
        fill = draw_gates_ if draw.how == GATES else draw_chrono_
        fill(parameter, size, draw.value, twin.generator)
    elif draw.how == OPEN:
        draw_open_(parameter, draw.rows, draw.value, twin.generator)
    elif draw.how == "centred":
        module = twin.model.get_submodule(draw.name.rpartition(".")[0])
        parameter.copy_(-draw.value * module.weight.flatten(1).sum(1))
    else:
        module = twin.model.get_submodule(draw.name.rpartition(".")[0])
        groups = getattr(module, "groups", 1) if not draw.rows_are_inputs else 1
        units = parameter.transpose(0, 1) if draw.rows_are_inputs else parameter
        on_cpu = torch.empty(units.shape, dtype=torch.float32)
        draw_(on_cpu, draw.value**2 / units[0].numel(), draw.how, twin.generator, groups)
        units.copy_(on_cpu)


def code_of(draws: Sequence[Draw]) -> str:
    """The same in plain torch: the most common gain as the rule, the others by name."""
    weights = [draw for draw in draws if draw.how in ("gaussian", "orthogonal")]
    lines = ["with torch.no_grad():"]
    for turned in (False, True):
        lines += _weights_code([draw for draw in weights if draw.rows_are_inputs is turned])
    for how in ("constant", "normal", "centred"):
        for value in dict.fromkeys(draw.value for draw in draws if draw.how == how):
            names = [draw.name for draw in draws if draw.how == how and draw.value == value]
            lines.append(f"    for name in {listed(names)}:")
            if how != "centred":
                call = f"fill_({value:.6g})" if how == "constant" else f"normal_(0.0, {value:.6g})"
                lines.append(f"        model.get_parameter(name).{call}")
            else:
                lines.append("        owner = model.get_submodule(name.rpartition('.')[0])")
                lines.append(f"        owner.bias.copy_(-{value:.6g} * owner.weight.flatten(1).sum(1))")
    lines += recurrent_code(draws)
    return "\n".join(lines) if len(lines) > 1 else ""


def _weights_code(weights: Sequence[Draw]) -> list[str]:
    """Of weights whose units lie along the same axis."""
    if not weights:
        return []
    gains = [f"{draw.value:.4g}" for draw in weights]
    usual = Counter(gains).most_common(1)[0][0]
    named = {d.name: float(g) for d, g in zip(weights, gains, strict=True) if g != usual}
    turn = ".transpose(0, 1)  # its rows are inputs" if weights[0].rows_are_inputs else ""
    lines = [
        f"    gains = {named!r}" if named else "    gains = {}",
        f"    for name in {listed([draw.name for draw in weights])}:",
        f"        weight = model.get_parameter(name){turn}",
        f"        gain = gains.get(name, {usual})",
    ]
    if weights[0].how == "gaussian":
        return [*lines, "        weight.normal_(0.0, gain / weight[0].numel() ** 0.5)"]
    drawn = "torch.nn.init.orthogonal_(weight.new_empty(weight.shape))"
    return [
        *lines,
        f"        weight.copy_({drawn})" if turn else "        torch.nn.init.orthogonal_(weight)",
        "        weight.mul_(gain / weight[0].numel() ** 0.5 / weight.square().mean().sqrt())",
    ]


def listed(names: Sequence[str]) -> str:
    r"""An expression for the list: names that differ by a number alone become a comprehension.

    >>> listed(["layer1.weight", "layer2.weight", "layer3.weight", "layer4.weight", "head.weight"])
    '[*[f"layer{i}.weight" for i in range(1, 5)], \'head.weight\']'
    >>> listed([f"blocks.{i}.ff.2.bias" for i in range(24)])
    '[f"blocks.{i}.ff.2.bias" for i in range(0, 24)]'
    """
    runs: dict[tuple[str, str], list[int]] = {}
    for name in names:
        for part in re.finditer(r"\d+", name):
            if part[0] == str(int(part[0])):
                runs.setdefault((name[: part.start()], name[part.end() :]), []).append(int(part[0]))
    told, done = [], set[str]()
    for (before, after), known in sorted(runs.items(), key=lambda run: -len(run[1])):
        numbers = [i for i in known if f"{before}{i}{after}" not in done]
        low, high, count = min(numbers, default=0), max(numbers, default=0), len(numbers)
        by = (high - low) // (count - 1) if count > 3 else 0
        if by and sorted(numbers) == list(range(low, high + 1, by)):
            step = f", {by}" if by > 1 else ""
            told.append(f'[f"{before}{{i}}{after}" for i in range({low}, {high + 1}{step})]')
            done |= {f"{before}{i}{after}" for i in numbers}
    rest = [repr(name) for name in names if name not in done]
    if len(told) == 1 and not rest:
        return told[0]
    return f"[{', '.join([*(f'*{each}' for each in told), *rest])}]"
