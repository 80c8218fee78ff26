"""What is one step of nn.RNN, nn.LSTM and nn.GRU, and what does its Jacobian do to a tangent?

With g = W_ih x_t + b_ih and r = W_hh h_{t-1} + b_hh (the linear part of the recurrence, *recurrent pre-activation*):

    RNN   h_t = a(g + r)
    LSTM  i, f, u, o = g + r;  c_t = s(f) c_{t-1} + s(i) tanh(u);  h_t = W_hr s(o) tanh(c_t)
    GRU   e = s(g_e + r_e), z = s(g_z + r_z), n = tanh(g_n + e r_n);  h_t = (1 - z) n + z h_{t-1}

with s the logistic sigmoid and W_hr the projection, if there is one (Hochreiter and Schmidhuber 1997; Cho et al. 2014;
in the order and with the biases of PyTorch). The way that bypasses W_hh is called the *carry*: f c_{t-1} in an LSTM,
z h_{t-1} in a GRU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("rnn_tanh", "rnn_relu", "lstm", "gru")


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Of one layer and direction."""

    ih: Tensor
    hh: Tensor
    b_ih: Tensor | None = None
    b_hh: Tensor | None = None
    hr: Tensor | None = None
    """The projection of an LSTM with `proj_size`."""


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What a step hands to the next: h [batch, hidden], and c [batch, cells] of an LSTM."""

    h: Tensor
    c: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """The tensors of one step whose gradients tell how it passed the gradient on."""

    fed: Tensor
    """h_{t-1} as W_hh meets it: its gradient is what came back through the recurrent weights alone."""
    linear: Tensor
    """r = W_hh h_{t-1} + b_hh."""
    gates: Tensor
    """g = W_ih x_t + b_ih of this step."""
    carried: Tensor | None = None
    """c_{t-1} (LSTM) or h_{t-1} (GRU) as the gate meets it: its gradient came back along the carry alone."""
    read: Tensor | None = None
    """c_t as the output gate meets it (LSTM): its gradient came by way of h_t."""


def step(kind: str, gates: Tensor, state: State, weights: Weights) -> tuple[State, Step]:
    """One step in time; `gates` is g = W_ih x_t + b_ih, [batch, 1, 4 or 3 times hidden].

    >>> weights = Weights(torch.eye(2), 0.5 * torch.eye(2))
    >>> after, _ = step("rnn_relu", torch.ones(1, 2), State(torch.tensor([[2.0, -4.0]])), weights)
    >>> after.h
    tensor([[2., 0.]])
    """
    h = state.h
    fed = h.view_as(h)
    linear = F.linear(fed, weights.hh, weights.b_hh)
    if kind == "lstm":
        assert state.c is not None
        carried = state.c.view_as(state.c)
        i, f, u, o = (gates + linear).chunk(4, -1)
        c = torch.sigmoid(f) * carried + torch.sigmoid(i) * torch.tanh(u)
        read = c.view_as(c)
        h = torch.sigmoid(o) * torch.tanh(read)
        h = h if weights.hr is None else F.linear(h, weights.hr)
        return State(h, c), Step(fed, linear, gates, carried, read)
    if kind == "gru":
        carried = h.view_as(h)
        (g_e, g_z, g_n), (r_e, r_z, r_n) = gates.chunk(3, -1), linear.chunk(3, -1)
        e, z = torch.sigmoid(g_e + r_e), torch.sigmoid(g_z + r_z)
        n = torch.tanh(g_n + e * r_n)
        return State((1 - z) * n + z * carried), Step(fed, linear, gates, carried)
    activation = torch.tanh if kind == "rnn_tanh" else torch.relu
    return State(activation(gates + linear)), Step(fed, linear, gates)


def push(kind: str, gates: Tensor, linear: Tensor, state: State, weights: Weights, tangent: Tensor) -> Tensor:
    """J_t V: the exact Jacobian of one step, applied to tangents V [batch, dim, k].

    dim is that of h, or of (h, c) for an LSTM. `linear` is r as in `step`, `state` the state before it.
    """
    width = state.h.shape[-1]
    moved = weights.hh @ tangent[:, :width]  # dr

    def column(x: Tensor) -> Tensor:
        return x.unsqueeze(-1)

    if kind == "lstm":
        assert state.c is not None
        i, f, u, o = (gates + linear).chunk(4, -1)
        di, df, du, do = moved.chunk(4, 1)
        i, f, u, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(u), torch.sigmoid(o)
        squashed = torch.tanh(f * state.c + i * u)
        dc = column(f) * tangent[:, width:] + column(state.c * f * (1 - f)) * df
        dc = dc + column(u * i * (1 - i)) * di + column(i * (1 - u * u)) * du
        dh = column(squashed * o * (1 - o)) * do + column(o * (1 - squashed * squashed)) * dc
        return torch.cat((dh if weights.hr is None else weights.hr @ dh, dc), dim=1)
    if kind == "gru":
        (g_e, g_z, g_n), (r_e, r_z, r_n) = gates.chunk(3, -1), linear.chunk(3, -1)
        de, dz, dn = moved.chunk(3, 1)
        e, z = torch.sigmoid(g_e + r_e), torch.sigmoid(g_z + r_z)
        n = torch.tanh(g_n + e * r_n)
        inner = column(e) * dn + column(r_n * e * (1 - e)) * de
        through = column((1 - z) * (1 - n * n)) * inner + column((state.h - n) * z * (1 - z)) * dz
        return through + column(z) * tangent
    x = gates + linear
    slope = 1 - torch.tanh(x).square() if kind == "rnn_tanh" else (x > 0).to(x.dtype)
    return column(slope) * moved
