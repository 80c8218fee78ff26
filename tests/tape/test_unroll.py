"""Unrolled equals fused: outputs, final states, gradients of weights, inputs and initial states."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import gradtrace
from gradtrace.tape.unroll import unrolled

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

KINDS = {
    "tanh": (nn.RNN, {"nonlinearity": "tanh"}),
    "relu": (nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (nn.LSTM, {}),
    "gru": (nn.GRU, {}),
    "projected": (nn.LSTM, {"proj_size": 3}),
}
SHAPES = ("time_first", "batch_first", "unbatched", "packed", "packed_unsorted")


def make(kind, dtype=torch.float64, **options):
    cls, extra = KINDS[kind]
    return cls(4, 6, **extra, **options).to(dtype)


def inputs(rnn, shape, length=7, given=False):
    dtype = rnn.weight_ih_l0.dtype
    batch = 5
    x = torch.randn(batch, length, 4, dtype=dtype) if rnn.batch_first else torch.randn(length, batch, 4, dtype=dtype)
    if shape == "unbatched":
        x = torch.randn(length, 4, dtype=dtype)
    x.requires_grad_()
    lengths = {"packed": [7, 5, 5, 2, 1], "packed_unsorted": [2, 7, 5, 1, 5]}.get(shape)
    if not given:
        return x, lengths, None
    rows = rnn.num_layers * (2 if rnn.bidirectional else 1)
    h = torch.randn(rows, *(() if shape == "unbatched" else (batch,)), rnn.proj_size or rnn.hidden_size, dtype=dtype)
    hx = (h, torch.randn(*h.shape[:-1], rnn.hidden_size, dtype=dtype)) if isinstance(rnn, nn.LSTM) else h
    for part in hx if isinstance(hx, tuple) else (hx,):
        part.requires_grad_()
    return x, lengths, hx


def run(rnn, x, lengths, hx):
    torch.manual_seed(1)
    fed = x
    if lengths is not None:
        fed = pack_padded_sequence(x, lengths, batch_first=rnn.batch_first, enforce_sorted=lengths[0] == 7)
    output, state = rnn(fed, hx)
    output = output.data if isinstance(output, PackedSequence) else output
    states = state if isinstance(state, tuple) else (state,)
    torch.manual_seed(2)
    loss = sum((part * torch.randn_like(part)).sum() for part in (output, *states))
    sources = [x, *rnn.parameters(), *(() if hx is None else hx if isinstance(hx, tuple) else (hx,))]
    return [output, *states, *torch.autograd.grad(loss, sources)]


def assert_same(rnn, x, lengths, hx, atol):
    fused = run(rnn, x, lengths, hx)
    with unrolled(rnn):
        stepped = run(rnn, x, lengths, hx)
    for a, b in zip(fused, stepped, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=atol, atol=atol)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("kind", "bidirectional", "layers", "given"), list(itertools.product(KINDS, (False, True), (1, 2), (False, True)))
)
def test_equal_in_float64(kind, bidirectional, layers, given, shape):
    rnn = make(kind, bidirectional=bidirectional, num_layers=layers, batch_first=shape == "batch_first")
    assert_same(rnn, *inputs(rnn, shape, given=given), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["batch_first", "packed"])
def test_equal_in_float32(kind, shape):
    rnn = make(kind, torch.float32, bidirectional=True, num_layers=3, batch_first=shape == "batch_first")
    assert_same(rnn, *inputs(rnn, shape), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["time_first", "batch_first", "packed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dropout_between_layers_draws_the_same_masks(kind, shape, dtype):
    rnn = make(kind, dtype, num_layers=3, dropout=0.4, batch_first=shape == "batch_first")
    atol = 1e-12 if dtype is torch.float64 else 1e-5
    assert_same(rnn, *inputs(rnn, shape), atol=atol)
    rnn.eval()
    assert_same(rnn, *inputs(rnn, shape), atol=atol)


@pytest.mark.parametrize("kind", KINDS)
def test_without_bias(kind):
    rnn = make(kind, bias=False, num_layers=2)
    assert_same(rnn, *inputs(rnn, "time_first"), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_step(kind):
    rnn = make(kind)
    assert_same(rnn, *inputs(rnn, "time_first", length=1), atol=1e-12)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("cell_type", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_cells_in_a_loop(cell_type, batched):
    cell = cell_type(4, 6).double()
    x = torch.randn(9, 5, 4, dtype=torch.float64) if batched else torch.randn(9, 4, dtype=torch.float64)

    def go():
        state = None
        for row in x:
            state = cell(row, state)
        h = state[0] if isinstance(state, tuple) else state
        return [h, *torch.autograd.grad(h.square().sum(), list(cell.parameters()))]

    fused = go()
    with unrolled(cell) as stepped:
        for a, b in zip(fused, go(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert [segment.call for segment in stepped.segments] == list(range(9))


def test_what_is_recorded():
    rnn = make("lstm", num_layers=2, bidirectional=True)
    model = nn.ModuleDict({"rnn": rnn})
    with unrolled(model) as stepped:
        output, (_h, c) = rnn(torch.randn(7, 5, 4, dtype=torch.float64))
    assert [(s.module, s.layer, s.reverse, len(s.steps), len(s.states)) for s in stepped.segments] == [
        ("rnn", layer, reverse, 7, 8) for layer in (0, 1) for reverse in (False, True)
    ]
    top = stepped.segments[2]
    assert torch.equal(torch.stack([state.h for state in top.states[1:]]), output[..., :6])
    assert torch.equal(top.states[-1].c, c[2])


@pytest.mark.parametrize("fails", [False, True])
def test_modules_are_restored(fails):
    rnn = make("gru")
    before = dict(vars(rnn))
    x = torch.randn(3, 2, 99 if fails else 4, dtype=torch.float64)
    try:
        with unrolled(rnn):
            rnn(x)
    except RuntimeError:
        assert fails
    assert vars(rnn).keys() == before.keys()
    assert all(vars(rnn)[k] is before[k] for k in before)
    assert not rnn._forward_hooks
    assert not rnn._forward_pre_hooks
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    assert rnn(x)[0].grad_fn.name() != "CatBackward0"


def test_zero_length_raises_as_torch_does():
    rnn = make("lstm")
    with unrolled(rnn), pytest.raises(RuntimeError, match="larger than 0"):
        rnn(torch.zeros(0, 5, 4, dtype=torch.float64))


def test_no_grad_and_frozen_stay_so():
    rnn = make("lstm")
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    with unrolled(rnn), torch.no_grad():
        assert not rnn(x)[0].requires_grad
    rnn.requires_grad_(False)
    with unrolled(rnn):
        assert not rnn(x)[0].requires_grad


def test_nan_passes_through():
    rnn = make("gru")
    x = torch.randn(6, 2, 4, dtype=torch.float64)
    x[3, 1] = torch.nan
    with unrolled(rnn):
        output, _ = rnn(x)
    assert torch.isfinite(output[:3]).all()
    assert torch.isnan(output[3:, 1]).all()


def test_a_trace_sees_each_step():
    model = make("tanh", batch_first=True)
    x = torch.randn(5, 7, 4, dtype=torch.float64)
    with unrolled(model):
        trace = gradtrace.trace(model, lambda m, x: m(x)[0][:, -1].square().mean(), x)
    tanh = [op for op in trace.ops if op.activation is not None and op.activation.function == "tanh"]
    assert len(tanh) == 7
    assert not trace.coverage.unknown
