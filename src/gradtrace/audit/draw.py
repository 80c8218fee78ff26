"""How are weights drawn with a given mean square? Gaussian, orthogonal, delta-orthogonal; recurrent weights and gates.

Orthogonal weights make all singular values equal (Saxe et al., Exact solutions, 2014); a delta-orthogonal kernel is
zero but in its middle, where it is orthogonal (Xiao et al., Dynamical isometry of CNNs, 2018); chrono biases spread the
memory of gates from 1 to T steps: b_f ~ ln U(1, T - 1), b_i = -b_f (Tallec & Ollivier, 2018).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Generator, Tensor

METHODS = ("gaussian", "orthogonal", "delta_orthogonal", "lsuv")


def draw_(weight: Tensor, mean_square: float, method: str, generator: Generator | None, groups: int = 1) -> None:
    """Fill `weight` [units, inputs / groups, *kernel] in place, so that the mean of its squares is `mean_square`."""
    with torch.no_grad():
        if method == "gaussian":
            weight.normal_(0.0, math.sqrt(mean_square), generator=generator)
            return
        weight.zero_()
        centre = weight
        if method == "delta_orthogonal" and weight.dim() > 2:
            for size in reversed(weight.shape[2:]):
                centre = centre[..., size // 2]
        for block in centre.chunk(groups):
            block.copy_(orthogonal(block, generator))
        weight.mul_(math.sqrt(mean_square / float(weight.double().square().mean())))


def orthogonal(like: Tensor, generator: Generator | None) -> Tensor:
    """A (semi-)orthogonal matrix in the shape of `like`, uniformly distributed (QR with the signs of R taken out)."""
    rows, columns = like.shape[0], like[0].numel()
    noise = torch.empty(max(rows, columns), min(rows, columns), device=like.device).normal_(generator=generator)
    Q, R = torch.linalg.qr(noise)
    Q = Q * R.diagonal().sign()
    found: Tensor = (Q if rows >= columns else Q.T).reshape(like.shape).to(like.dtype)
    return found


def recurrent_(module: nn.RNNBase | nn.RNNCellBase, horizon: int, generator: Generator | None) -> list[tuple[str, str]]:
    """Orthogonal recurrent weights per gate, unit-variance inputs, chrono gate biases: (parameter, what was done)."""
    gates = {"LSTM": 4, "GRU": 3}.get(type(module).__name__.removesuffix("Cell"), 1)
    done = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        with torch.no_grad():
            if parameter.dim() == 1:
                parameter.zero_()
                done.append((name, "zero"))
                continue
            for gate in parameter.chunk(gates):
                if name.startswith(("weight_hh", "weight_hr")):
                    gate.copy_(orthogonal(gate, generator))
                else:
                    gate.normal_(0.0, gate.shape[1] ** -0.5, generator=generator)
        done.append((name, f"orthogonal, {gates} gates" if "_hh" in name else "gaussian, unit variance"))
    if gates > 1:
        done += _chrono(module, gates, max(horizon, 3), generator)
    return done


def _chrono(module: nn.Module, gates: int, horizon: int, generator: Generator | None) -> list[tuple[str, str]]:
    done = []
    for name, bias in module.named_parameters():
        if not name.startswith("bias_ih") or not bias.requires_grad:
            continue
        with torch.no_grad():
            size = bias.shape[0] // gates
            memory = torch.empty(size, device=bias.device).uniform_(1.0, horizon - 1.0, generator=generator).log()
            if gates == 4:  # torch's order: input, forget, cell, output
                bias[:size], bias[size : 2 * size] = -memory, memory
            else:  # reset, update, new; h = (1 - z) n + z h
                bias[size : 2 * size] = memory
        done.append((name, f"chrono: gates remember 1 to {horizon} steps"))
    return done
