"""The zoo's list of inhabitants."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from tests.measure.zoo import (
    Animal,
    Blocked,
    Cube,
    Output,
    add_in_place,
    adversarial,
    assign_column,
    attend,
    autocast,
    by_hand,
    caught,
    cells,
    compiled_part,
    compiled_whole,
    frozen,
    functional,
    in_format,
    many_outputs,
    mapped,
    named_output,
    net,
    of,
    packed,
    penalised,
    recurrent,
    rematerialised,
    sdpa,
    several_branches,
    several_losses,
    spectrum,
    square,
    transformer,
    views,
)  # fmt: skip
from torch import nn
from torch.nn.utils import parametrizations


def line(size: int = 4, out: int = 4) -> nn.Linear:
    return nn.Linear(size, out)


def chain(*modules: nn.Module) -> Animal:
    return nn.Sequential(*modules), square, torch.randn(6, 4)


ZOO: dict[str, Callable[[], Animal]] = {
    "functional": lambda: net(
        functional, w=nn.Parameter(torch.randn(4, 4)), scale=nn.Parameter(torch.tensor(0.5))
    ),
    "relu in place": lambda: chain(line(), nn.ReLU(inplace=True), line(), nn.LeakyReLU(0.1, inplace=True), line()),
    "column assigned": lambda: net(assign_column, a=line(), b=line()),
    "add in place": lambda: net(add_in_place, a=line(), b=line()),
    "views": lambda: net(views, a=line(), b=line(4, 6)),
    "branches": lambda: net(several_branches, a=line()),
    "weights shared": lambda: chain(shared := line(), nn.Tanh(), shared, nn.Tanh(), shared),
    "module called twice": lambda: net(lambda net, x: net.a(torch.relu(net.a(x))), a=line()),
    "exception caught": lambda: net(caught, a=line(), b=line()),
    "attention, weights": lambda: attend(True),
    "attention, no weights": lambda: attend(False),
    "attention by hand": lambda: net(by_hand, 2, 5, 4, qkv=line(4, 12), out=line()),
    "sdpa": sdpa,
    "sdpa causal": lambda: sdpa(is_causal=True),
    "sdpa mask": lambda: sdpa(attn_mask=torch.ones(5, 5, dtype=torch.bool).tril()),
    "transformer, norm first": lambda: transformer(True),
    "transformer, norm last": lambda: transformer(False),
    "conv 1d": lambda: of(nn.Conv1d(3, 4, 3, padding=1), 2, 3, 8),
    "conv 2d": lambda: of(nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2)), 2, 3, 8, 8),
    "conv 3d": lambda: of(nn.Conv3d(3, 4, 2), 2, 3, 4, 4, 4),
    "conv transposed 1d": lambda: of(nn.ConvTranspose1d(3, 4, 3), 2, 3, 8),
    "conv transposed 2d": lambda: of(nn.ConvTranspose2d(3, 4, 3, 2), 2, 3, 5, 5),
    "conv transposed 3d": lambda: of(nn.ConvTranspose3d(3, 4, 2), 2, 3, 4, 4, 4),
    "conv channels last": lambda: of(
        nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), 2, 3, 8, 8  # type: ignore[call-overload]
    ),
    "batch norm 1d": lambda: of(nn.BatchNorm1d(4), 6, 4),
    "batch norm 2d": lambda: of(nn.BatchNorm2d(3), 2, 3, 4, 4),
    "batch norm 3d": lambda: of(nn.BatchNorm3d(3), 2, 3, 2, 2, 4),
    "batch norm, evaluating": lambda: of(nn.BatchNorm1d(4).eval(), 6, 4),
    "layer norm": lambda: of(nn.LayerNorm(4), 6, 4),
    "group norm": lambda: of(nn.GroupNorm(2, 4), 2, 4, 6),
    "instance norm": lambda: of(nn.InstanceNorm2d(3, affine=True), 2, 3, 4, 4),
    "rms norm": lambda: of(nn.RMSNorm(4), 6, 4),
    "response norm": lambda: of(nn.LocalResponseNorm(2), 2, 4, 6),
    "norm by hand": lambda: net(
        lambda net, x: (h := net.a(x)) / (h.norm(dim=1, keepdim=True) + h.std(1, keepdim=True)), a=line()
    ),
    "embedding": lambda: (nn.Sequential(nn.Embedding(9, 4), line()), square, torch.randint(0, 9, (3, 5))),
    "embedding, sparse": lambda: (
        nn.Sequential(nn.Embedding(9, 4, sparse=True), line()), square, torch.randint(0, 9, (3, 5))
    ),
    "embedding bag": lambda: (nn.Sequential(nn.EmbeddingBag(9, 4), line()), square, torch.randint(0, 9, (3, 5))),
    "embedding bag, sparse": lambda: (
        nn.Sequential(nn.EmbeddingBag(9, 4, mode="sum", sparse=True), line()), square, torch.randint(0, 9, (3, 5))
    ),
    "custom function": lambda: net(lambda net, x: net.b(Cube.apply(net.a(x))), a=line(), b=line()),
    "custom function, two outputs": lambda: net(many_outputs, a=line(), b=line()),
    "custom function, None": lambda: net(lambda net, x: Blocked.apply(net.a(x), net.b(x)), a=line(), b=line()),
    "checkpoint": lambda: rematerialised(False),
    "checkpoint, reentrant": lambda: rematerialised(True),
    "autocast": lambda: net(autocast, a=line(4, 8), b=line(8)),
    "float16": lambda: in_format(torch.float16),
    "bfloat16": lambda: in_format(torch.bfloat16),
    "float64": lambda: in_format(torch.float64),
    "complex weights": lambda: (
        nn.Sequential(nn.Linear(4, 4, dtype=torch.complex64), nn.Linear(4, 2, dtype=torch.complex64)),
        square, torch.randn(6, 4, dtype=torch.complex64),
    ),
    "spectrum": lambda: net(spectrum, a=line(4, 8), filter=nn.Parameter(torch.randn(5, dtype=torch.complex64))),
    "output dict": lambda: named_output(dict),
    "output dataclass": lambda: named_output(Output),
    "several losses": lambda: (chain(line(), nn.Tanh(), line())[0], several_losses,
                               (torch.randn(6, 4), torch.randint(0, 4, (6,)))),
    "loss in forward": lambda: (
        nn.Sequential(line(), net(lambda net, x: F.mse_loss(x.sigmoid(), net.goal), goal=torch.ones(6, 4))[0]),
        lambda model, x: model(x), torch.randn(6, 4),
    ),
    "lstm": lambda: recurrent(nn.LSTM),
    "lstm, two ways": lambda: recurrent(nn.LSTM, num_layers=2, bidirectional=True, batch_first=True),
    "gru": lambda: recurrent(nn.GRU, batch_first=True),
    "gru, two ways": lambda: recurrent(nn.GRU, bidirectional=True, dropout=0.3, num_layers=2),
    "rnn": lambda: recurrent(nn.RNN, nonlinearity="relu"),
    "lstm, packed": lambda: net(packed, 3, 6, 4, first=line(), rnn=nn.LSTM(4, 5, batch_first=True)),
    "lstm, after a layer": lambda: net(lambda net, x: net.rnn(net.a(x))[1][0], 3, 6, 4, a=line(), rnn=nn.LSTM(4, 5)),
    "lstm cell": lambda: net(cells, 3, 6, 4, cell=nn.LSTMCell(4, 5)),
    "gru cell": lambda: net(cells, 3, 6, 4, cell=nn.GRUCell(4, 5)),
    "compiled": compiled_whole,
    "compiled part": compiled_part,
    "frozen parts": frozen,
    "weight norm": lambda: chain(parametrizations.weight_norm(line()), nn.ReLU(), parametrizations.weight_norm(line())),
    "spectral norm": lambda: chain(parametrizations.spectral_norm(line()), nn.ReLU(), line()),
    "orthogonal": lambda: chain(parametrizations.orthogonal(line()), line()),
    "scalar parameter": lambda: net(
        lambda net, x: net.a(x) * net.scale, a=line(), scale=nn.Parameter(torch.tensor(2.0))
    ),
    "vmap": lambda: net(mapped, a=line(), w=nn.Parameter(torch.randn(3, 4))),
    "output unused": lambda: net(lambda net, x: (net.a(x), net.b(x))[0], a=line(), b=line()),
    "second model outside": adversarial,
    "gradient penalty": lambda: (chain(line(), nn.Tanh(), line(4, 1))[0], penalised, torch.randn(6, 4)),
    "dropout": lambda: of(nn.Sequential(nn.Dropout(0.3), nn.Dropout1d(0.3), nn.AlphaDropout(0.2)), 2, 3, 4),
    "pooling": lambda: of(
        nn.Sequential(nn.MaxPool2d(2), nn.ReflectionPad2d(1), nn.AvgPool2d(2), nn.Upsample(scale_factor=2),
                      nn.PixelUnshuffle(2), nn.AdaptiveMaxPool2d(2), nn.AdaptiveAvgPool2d(1)), 2, 3, 16, 16,
    ),
    "bilinear": lambda: net(lambda net, x: net.c(net.a(x), net.a(x)), a=line(), c=nn.Bilinear(4, 4, 3)),
    "cosine": lambda: net(lambda net, x: F.cosine_similarity(net.a(x), x) + F.normalize(net.a(x)).sum(1), a=line()),
    "distances": lambda: net(lambda net, x: torch.cdist(net.a(x), x) + F.pairwise_distance(net.a(x), x), a=line()),
}  # fmt: skip
