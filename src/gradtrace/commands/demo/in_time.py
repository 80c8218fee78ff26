"""The lecture's end: in a recurrent network the depth of the unrolled loop is the length of the sequence.

The same vanilla RNN reads longer and longer sequences whose label hangs on their first step (Bengio, Simard and
Frasconi 1994); beside it an LSTM, as PyTorch initialises it and with the forget gates of Tallec and Ollivier (2018);
and attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradtrace.commands.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gradtrace.records.finding import Diagnosis

LENGTHS = (10, 30, 100, 300)
WIDTH = 64
FEATURES = 8
BATCH = 16


@dataclass(frozen=True, slots=True)
class Verdict:
    """One network at one length."""

    name: str
    num_steps: int
    decades: float
    """log10 of the loss gradient at the first state over that at the last, h and c together."""
    horizon_steps: float
    told: str
    """Symptom of the first finding, or 'healthy'."""


@dataclass(frozen=True, slots=True)
class Fading:
    """What is left of a gradient by lag."""

    name: str
    curve: tuple[float, ...]
    """log10 of |dL_t/dx_{t-k}| over its largest, k = 0, 1, ..."""


def verdicts(check: Callable[[Target], Diagnosis]) -> Iterator[Verdict]:
    """The vanilla RNN at every length, and the LSTMs at the longest."""
    for length in LENGTHS:
        yield _verdict(check, "RNN", _recurrent("rnn"), length)
    for name, kind in (("RNN, orthogonal", "orthogonal"), ("LSTM", "lstm"), ("LSTM, chrono", "chrono")):
        yield _verdict(check, name, _recurrent(kind), LENGTHS[-1])


def fadings() -> Iterator[Fading]:
    """How each fades with the lag, at the longest length; attention too."""
    import torch

    import gradtrace

    x = _series(LENGTHS[-1])
    networks = {"RNN": "rnn", "RNN, orthogonal": "orthogonal", "LSTM": "lstm", "LSTM, chrono": "chrono"}
    for name, kind in (*networks.items(), ("attention", "")):
        torch.manual_seed(0)
        model = (_recurrent(kind) if kind else _attention()).double()
        record = gradtrace.through_time(model, _every_step, x, at="input", time_axis=1, num_targets=1)
        curve = record.losses[0].curve()
        yield Fading(name, tuple(value - max(curve) for value in curve))


def _verdict(check: Callable[[Target], Diagnosis], name: str, model: Any, length: int) -> Verdict:
    diagnosis = check(Target(name, model.double(), _last_step, [_series(length)]))
    record = diagnosis.through_time
    assert record is not None
    chain = record.chains[0]
    finding = next(iter(diagnosis.findings), None)
    told = "healthy" if diagnosis.healthy or finding is None else finding.symptom.value
    horizon = chain.horizon.steps if chain.horizon is not None else float("nan")
    lost = math.log10(chain.states[0]) - math.log10(chain.states[-1])
    return Verdict(name, length, lost, horizon, told)


def _series(length: int) -> Any:
    import torch

    return torch.randn(BATCH, length, FEATURES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _last_step(model: Any, x: Any) -> Any:
    from torch.nn import functional as F

    return F.cross_entropy(model(x)[:, -1], x[:, 0].argmax(1))


def _every_step(model: Any, x: Any) -> Any:
    return model(x).square().mean()


def _recurrent(kind: str) -> Any:
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            recurrent = nn.LSTM if kind in ("lstm", "chrono") else nn.RNN
            self.rnn = recurrent(FEATURES, WIDTH, batch_first=True)
            self.head = nn.Linear(WIDTH, FEATURES)

        def forward(self, x: Any) -> Any:
            return self.head(self.rnn(x)[0])

    torch.manual_seed(0)
    model = Network()
    if kind == "orthogonal":
        nn.init.orthogonal_(model.rnn.get_parameter("weight_hh_l0"))
    if kind == "chrono":
        bias = model.rnn.get_parameter("bias_ih_l0").data
        model.rnn.get_parameter("bias_hh_l0").data.zero_()
        bias[WIDTH : 2 * WIDTH].uniform_(1, LENGTHS[-1] - 1).log_()
        bias[:WIDTH] = -bias[WIDTH : 2 * WIDTH]
    return model


def _attention() -> Any:
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.head = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, FEATURES)
            layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
            self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, x: Any) -> Any:
            mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
            return self.head(self.layers(self.read(x), mask=mask, is_causal=True))

    return Network()
