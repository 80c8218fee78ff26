"""Recurrent networks of many kinds, over sequences [batch, time, features], of known truth."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES, CLASSES = 8, 4


def first_step(model: nn.Module, x: Tensor) -> Tensor:
    """The label hangs on the first step, the output is one for the whole sequence."""
    return F.cross_entropy(model(x), x[:, 0, :CLASSES].argmax(1))


def each_step(model: nn.Module, x: Tensor) -> Tensor:
    """An output at every step."""
    return F.mse_loss(model(x), x[..., :CLASSES].roll(2, 1).detach())


class Fused(nn.Module):
    """A fused recurrence; its last step, all of them, their mean, or both final states."""

    def __init__(self, rnn: nn.RNNBase, read: str = "last") -> None:
        super().__init__()
        self.rnn, self.read = rnn, read
        self.head = nn.Linear(rnn.hidden_size * (2 if rnn.bidirectional else 1), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        states, final = self.rnn(x)
        if self.read == "final":
            final = final[0] if isinstance(final, tuple) else final
            return self.head(torch.cat((final[-2], final[-1]), -1))
        pick = {"last": lambda s: s[:, -1], "every": lambda s: s, "mean": lambda s: s.mean(1)}
        return self.head(pick[self.read](states))


class ByHand(nn.Module):
    """A loop of the user's own: `step` takes (module, x_t, h) and returns the next h."""

    def __init__(self, parts: dict[str, nn.Module], step: Callable, width: int, every: bool = True) -> None:
        super().__init__()
        self.parts, self.step, self.width, self.every = nn.ModuleDict(parts), step, width, every
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h: object = x.new_zeros(len(x), self.width)
        outputs = []
        for x_t in x.unbind(1):
            h = self.step(self.parts, x_t, h)
            outputs.append(self.head(h[0] if isinstance(h, tuple) else h))
        return torch.stack(outputs, 1) if self.every else outputs[-1]


def by_hand_rnn(every: bool, gain: float | None = None, weight_norm: bool = False) -> nn.Module:
    cell = nn.Linear(32, 32, bias=False)
    if gain is not None:
        nn.init.orthogonal_(cell.weight, gain)
    if weight_norm:
        nn.utils.parametrizations.weight_norm(cell)
    parts = {"cell": cell, "read": nn.Linear(FEATURES, 32)}
    return ByHand(parts, lambda p, x, h: torch.tanh(p["cell"](h) + p["read"](x)), 32, every)


def by_hand_lstm(every: bool) -> nn.Module:
    """Four linear maps of (x, h); the cell is a second state that no weight reads."""

    def step(p, x, state):
        h, c = state if isinstance(state, tuple) else (state, torch.zeros_like(state))
        v = torch.cat((x, h), 1)
        c = torch.sigmoid(p["f"](v)) * c + torch.sigmoid(p["i"](v)) * torch.tanh(p["u"](v))
        return torch.sigmoid(p["o"](v)) * torch.tanh(c), c

    return ByHand({name: nn.Linear(FEATURES + 32, 32) for name in "ifuo"}, step, 32, every)


def decaying_gru() -> nn.Module:
    """GRU-D (Che et al. 2018): the state decays, by a learned rate, before each step."""

    def step(p, x, h):
        h = h * torch.exp(-F.relu(p["decay"](x[:, :1].abs())))
        z, r = torch.sigmoid(p["gates"](torch.cat((x, h), 1))).chunk(2, 1)
        return (1 - z) * h + z * torch.tanh(p["new"](torch.cat((x, r * h), 1)))

    parts = {"decay": nn.Linear(1, 32), "gates": nn.Linear(FEATURES + 32, 64), "new": nn.Linear(FEATURES + 32, 32)}
    return ByHand(parts, step, 32)


def attention_over_the_past() -> nn.Module:
    """A cell that looks back at all earlier states."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.query = nn.GRUCell(FEATURES + 32, 32), nn.Linear(32, 32)
            self.head = nn.Linear(32, CLASSES)

        def forward(self, x):
            h, past = x.new_zeros(len(x), 32), [x.new_zeros(len(x), 32)]
            for x_t in x.unbind(1):
                memory = torch.stack(past, 1)
                weights = torch.softmax((memory @ self.query(h)[..., None]).squeeze(-1) / math.sqrt(32), -1)
                h = self.cell(torch.cat((x_t, (weights[:, None] @ memory).squeeze(1)), 1), h)
                past.append(h)
            return self.head(torch.stack(past[1:], 1))

    return Net()


class Encoded(nn.Module):
    """Encoder and decoder; the decoder's cell attends to all of the encoder's states, or gets the last one alone."""

    def __init__(self, attention: bool) -> None:
        super().__init__()
        self.encoder, self.cell = nn.GRU(FEATURES, 32, batch_first=True), nn.GRUCell(FEATURES + 32, 32)
        self.query, self.head, self.attention = nn.Linear(32, 32), nn.Linear(32, CLASSES), attention

    def forward(self, x):
        memory, h = self.encoder(x)
        h, y, outputs = h[0], x.new_zeros(len(x), FEATURES), []
        for _ in range(5):
            context = torch.zeros_like(h)
            if self.attention:
                weights = torch.softmax((memory @ self.query(h)[..., None]).squeeze(-1) / math.sqrt(32), -1)
                context = (weights[:, None] @ memory).squeeze(1)
            h = self.cell(torch.cat((y, context), 1), h)
            outputs.append(self.head(h))
            y = F.pad(outputs[-1], (0, FEATURES - CLASSES))
        return torch.stack(outputs, 1)


def echo(model: nn.Module, x: Tensor) -> Tensor:
    """The decoder says the beginning of the sequence again."""
    return F.mse_loss(model(x), x[:, :5, :CLASSES].detach())


class ConvLSTM(nn.Module):
    """Over one-dimensional images: the features are pixels (Shi et al. 2015)."""

    def __init__(self, every: bool) -> None:
        super().__init__()
        self.conv, self.head, self.every = nn.Conv1d(1 + 6, 24, 3, padding=1), nn.Linear(6 * FEATURES, CLASSES), every

    def forward(self, x):
        h = c = x.new_zeros(len(x), 6, FEATURES)
        outputs = []
        for x_t in x.unbind(1):
            i, f, u, o = self.conv(torch.cat((x_t[:, None], h), 1)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(u)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(self.head(h.flatten(1)))
        return torch.stack(outputs, 1) if self.every else outputs[-1]


class StateSpace(nn.Module):
    """h = a h + B x with a diagonal, learned a; read at the end (Gu et al. 2022; Orvieto et al. 2023 where complex)."""

    def __init__(self, low: float, high: float, is_complex: bool = False) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.empty(32).uniform_(low, high))
        self.angle = nn.Parameter(torch.rand(32)) if is_complex else None
        self.read, self.head = nn.Linear(FEATURES, 32, bias=False), nn.Linear(32, CLASSES)

    def forward(self, x):
        u = self.read(x)
        a = self.rate if self.angle is None else torch.polar(self.rate, self.angle)
        h = torch.zeros_like(u[:, 0], dtype=a.dtype)
        for t in range(x.shape[1]):
            h = a * h + u[:, t]
        return self.head(h.real if h.is_complex() else h)


class EchoState(nn.Module):
    """A reservoir that is not trained, its weights a buffer (Jaeger 2001); the input weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("reservoir", torch.randn(64, 64) * 0.9 / 8)
        self.read, self.head = nn.Linear(FEATURES, 64), nn.Linear(64, CLASSES)

    def forward(self, x):
        h, states = x.new_zeros(len(x), 64), []
        for x_t in x.unbind(1):
            h = torch.tanh(h @ self.reservoir.T + self.read(x_t))
            states.append(h)
        return self.head(torch.stack(states, 1))


class Windowed(nn.Module):
    """A cell whose state is detached every `window` steps."""

    def __init__(self, window: int, every: bool = True) -> None:
        super().__init__()
        self.cell, self.head, self.window, self.every = nn.LSTMCell(FEATURES, 32), nn.Linear(32, CLASSES), window, every

    def forward(self, x):
        state, outputs = None, []
        for t, x_t in enumerate(x.unbind(1)):
            if state is not None and t % self.window == 0:
                state = tuple(part.detach() for part in state)
            state = self.cell(x_t, state)
            outputs.append(self.head(state[0]))
        return torch.stack(outputs, 1) if self.every else outputs[-1]


class OneByOne(nn.Module):
    """A fused module called with one step at a time, as decoders do."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(FEATURES, 32, 2, batch_first=True), nn.Linear(32, CLASSES)

    def forward(self, x):
        state, outputs = None, []
        for x_t in x.split(1, dim=1):
            y, state = self.rnn(x_t, state)
            outputs.append(self.head(y))
        return torch.cat(outputs, 1)


class SharedDepth(nn.Module):
    """Nothing new comes in: Euler steps of a neural ODE, or an iteration towards a fixed point."""

    def __init__(self, kind: str, turns: int = 40) -> None:
        super().__init__()
        self.stem, self.head, self.kind, self.turns = nn.Linear(FEATURES, 32), nn.Linear(32, CLASSES), kind, turns
        self.map = nn.Sequential(nn.Linear(32, 32), nn.Tanh())

    def forward(self, x):
        u = self.stem(x[:, 0])
        h = u if self.kind == "ode" else torch.zeros_like(u)
        for _ in range(self.turns):
            h = h + self.map(h) / self.turns if self.kind == "ode" else torch.tanh(self.map[0](h) + u)
        return self.head(h)


def chrono_lstm(length: int) -> nn.LSTM:
    """Tallec and Ollivier 2018."""
    lstm = nn.LSTM(FEATURES, 32, batch_first=True)
    with torch.no_grad():
        lstm.bias_hh_l0.zero_()
        bias = lstm.get_parameter("bias_ih_l0")
        bias[32:64].uniform_(1, length - 1).log_()
        bias[:32] = -bias[32:64]
    return lstm


def orthogonal_relu(gain: float) -> nn.RNN:
    rnn = nn.RNN(FEATURES, 32, nonlinearity="relu", batch_first=True)
    nn.init.orthogonal_(rnn.weight_hh_l0, gain)
    return rnn


def chaotic() -> nn.RNN:
    """Gaussian weights of variance 16/N and hardly any input: chaos (Sompolinsky et al. 1988)."""
    rnn = nn.RNN(FEATURES, 128, batch_first=True)
    nn.init.normal_(rnn.weight_hh_l0, std=4 / math.sqrt(128))
    nn.init.normal_(rnn.weight_ih_l0, std=0.01)
    return rnn


def _fused(kind: type[nn.RNNBase], read: str = "last", **options):
    return lambda: Fused(kind(FEATURES, 32, batch_first=True, **options), read)


CONTRACTION, EXPANSION, CUT, HEALTHY = "recurrent_contraction", "recurrent_expansion", "detached_graph", "none"

NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable, int, str]] = {
    # name -> network, loss, length, truth
    "lstm_every": (_fused(nn.LSTM, "every"), each_step, 80, HEALTHY),
    "lstm_every_two_layers": (_fused(nn.LSTM, "every", num_layers=2, dropout=0.3), each_step, 60, HEALTHY),
    "gru_every": (_fused(nn.GRU, "every"), each_step, 120, HEALTHY),
    "rnn_every": (_fused(nn.RNN, "every"), each_step, 80, HEALTHY),
    "rnn_short": (_fused(nn.RNN), first_step, 5, HEALTHY),
    "rnn_long": (_fused(nn.RNN), first_step, 60, CONTRACTION),
    "gru_long": (_fused(nn.GRU), first_step, 80, CONTRACTION),
    "lstm_long": (_fused(nn.LSTM), first_step, 60, CONTRACTION),
    "lstm_chrono": (lambda: Fused(chrono_lstm(60)), first_step, 60, HEALTHY),
    "bidirectional_last": (_fused(nn.LSTM, bidirectional=True), first_step, 60, CONTRACTION),
    "bidirectional_final": (_fused(nn.LSTM, "final", bidirectional=True), first_step, 40, HEALTHY),
    "bidirectional_mean": (_fused(nn.GRU, "mean", bidirectional=True, num_layers=2), first_step, 60, HEALTHY),
    "relu_expanding": (lambda: Fused(orthogonal_relu(1.8)), first_step, 60, EXPANSION),
    "chaos": (lambda: Fused(chaotic()), first_step, 60, EXPANSION),
    "by_hand_every": (lambda: by_hand_rnn(True), each_step, 80, HEALTHY),
    "by_hand_long": (lambda: by_hand_rnn(False), first_step, 60, CONTRACTION),
    "by_hand_orthogonal_every": (lambda: by_hand_rnn(True, 1.0), each_step, 120, HEALTHY),
    "by_hand_weight_norm": (lambda: by_hand_rnn(False, weight_norm=True), first_step, 60, CONTRACTION),
    "by_hand_lstm_every": (lambda: by_hand_lstm(True), each_step, 60, HEALTHY),
    "by_hand_lstm_long": (lambda: by_hand_lstm(False), first_step, 60, CONTRACTION),
    "decaying_gru": (decaying_gru, each_step, 40, HEALTHY),
    "attention_over_the_past": (attention_over_the_past, each_step, 40, HEALTHY),
    "encoder_attended": (lambda: Encoded(True), echo, 50, HEALTHY),
    "encoder_alone": (lambda: Encoded(False), echo, 50, CONTRACTION),
    "conv_lstm_every": (lambda: ConvLSTM(True), each_step, 20, HEALTHY),
    "conv_lstm_long": (lambda: ConvLSTM(False), first_step, 40, CONTRACTION),
    "state_space_long_memory": (lambda: StateSpace(0.99, 0.9999), first_step, 120, HEALTHY),
    "state_space_short_memory": (lambda: StateSpace(0.4, 0.7), first_step, 80, CONTRACTION),
    "state_space_complex": (lambda: StateSpace(0.97, 0.999, True), first_step, 80, HEALTHY),
    "echo_state": (EchoState, each_step, 60, HEALTHY),
    "truncated": (lambda: Windowed(20), each_step, 60, HEALTHY),
    "truncated_early": (lambda: Windowed(5), each_step, 60, HEALTHY),
    "detached_each_step": (lambda: Windowed(1), each_step, 40, CUT),
    "detached_before_the_end": (lambda: Windowed(5, False), first_step, 38, CUT),
    "one_by_one": (OneByOne, each_step, 40, HEALTHY),
    "neural_ode": (lambda: SharedDepth("ode"), first_step, 2, HEALTHY),
    "fixed_point": (lambda: SharedDepth("fixed point"), first_step, 2, HEALTHY),
}
