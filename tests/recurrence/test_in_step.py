"""A fused recurrence of a watched step, step by step: against `through_time` of the same loss, and bare."""

from __future__ import annotations

import copy
import gc
import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gradtrace
from gradtrace.diagnosis.recurrences import layers
from gradtrace.records.trace import Site
from gradtrace.recurrence.fused import FusedCalls
from gradtrace.recurrence.origins import Origins
from gradtrace.tape.graph import walk
from gradtrace.tape.private import LEAF_SEQUENCE_NR

SERIES = ("hidden", "cell", "linear", "recurrent", "carried", "read")


class Last(nn.Module):
    """Classifies a sequence by the last output of a recurrence."""

    def __init__(self, kind: str, *, packed: bool = False, **options: Any) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(3, 8, **options)
        self.head = nn.Linear(8 * (1 + self.rnn.bidirectional), 2)
        self.packed = packed

    def forward(self, x: Tensor) -> Tensor:
        """Of x [batch, time, 3] or, without `batch_first`, [time, batch, 3]."""
        if self.packed:
            lengths = torch.tensor([12, 12, 9, 7, 5])
            output, _ = self.rnn(pack_padded_sequence(x, lengths, batch_first=True))
            return self.head(pad_packed_sequence(output, batch_first=True)[0].mean(1))
        output = self.rnn(x)[0]
        return self.head(output[:, -1] if self.rnn.batch_first else output[-1])


def _loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def _watched(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Any:
    """The gradient through time of one watched step at learning rate 0."""
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with gradtrace.watch(model, optimizer) as watch:
        _loss(model, batch).backward()
        optimizer.step()
    found = watch.diagnosis.traces[0].through_time
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LSTM", {"batch_first": True}),
        ("LSTM", {"batch_first": False}),
        ("LSTM", {"batch_first": True, "num_layers": 2, "dropout": 0.4}),
        ("LSTM", {"batch_first": True, "bidirectional": True, "bias": False}),
        ("LSTM", {"batch_first": True, "packed": True}),
        ("GRU", {"batch_first": True, "num_layers": 2, "dropout": 0.3}),
        ("RNN", {"batch_first": True, "nonlinearity": "relu"}),
    ],
)
def test_is_the_gradient_through_time_of_the_loss(kind: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Last(kind, **options)
    shape = (5, 12, 3) if options["batch_first"] else (12, 5, 3)
    batch = torch.randn(shape), torch.tensor([0, 1, 0, 1, 1])
    state = torch.get_rng_state()
    found = _watched(model, batch)
    torch.set_rng_state(state)
    expected = gradtrace.through_time(model, _loss, batch)
    assert [chain.name for chain in found.chains] == [chain.name for chain in expected.chains]
    for ours, theirs in zip(found.chains, expected.chains, strict=True):
        for name in SERIES:
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-4, abs=1e-12), name
        assert ours.singular_value == theirs.singular_value
        assert ours.num_steps == 12
    assert found.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-5)


def test_training_is_the_same_bit_for_bit() -> None:
    torch.manual_seed(0)
    model = Last("LSTM", batch_first=True, num_layers=2, dropout=0.5)
    batches = [(torch.randn(4, 10, 3), torch.randint(0, 2, (4,))) for _ in range(9)]

    def train(model: nn.Module, watches: bool) -> tuple[list[Tensor], Tensor]:
        torch.manual_seed(1)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        watch = gradtrace.watch(model, optimizer, every=1) if watches else None
        for batch in batches:
            optimizer.zero_grad()
            _loss(model, batch).backward()
            optimizer.step()
        if watch is not None:
            watch.close()
        return [parameter.detach() for parameter in model.parameters()], torch.rand(())

    bare, watched = train(copy.deepcopy(model), watches=False), train(model, watches=True)
    assert all(map(torch.equal, bare[0], watched[0]))
    assert torch.equal(bare[1], watched[1])


def test_a_compiled_model_has_it_under_the_names_of_the_whole() -> None:
    model = nn.ModuleDict({"first": Last("LSTM", batch_first=True)})
    batch = torch.randn(5, 12, 3), torch.tensor([0, 1, 0, 1, 1])
    found = _watched(torch.compile(model["first"], backend="eager"), batch)
    expected = gradtrace.through_time(model["first"], _loss, batch)
    assert found.chains[0].module == "rnn"
    assert found.chains[0].cell == pytest.approx(expected.chains[0].cell, rel=1e-4)


@pytest.mark.parametrize("task", ["first", "last"])
def test_what_it_forgets_is_a_fault_where_the_data_asks_for_it(task: str) -> None:
    torch.manual_seed(0)
    model = Last("LSTM", batch_first=True)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with gradtrace.watch(model, optimizer, budget=1.0) as watch:  # whatever the machine: every step is measured
        for _ in range(130):
            x = torch.randn(32, 20, 3)
            label = x[:, 0 if task == "first" else -1, 0] > 0
            optimizer.zero_grad()
            _loss(model, (x, label.long())).backward()
            optimizer.step()
    (found,) = [f for f in watch.diagnosis.findings if f.cause == "recurrent_contraction"]
    assert found.where == ("rnn",)
    assert found.severity == ("critical" if task == "first" else "info")


class Loops(nn.Module):
    """Classifies a sequence by the last state of a recurrence that is written as a loop, in one of the usual ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        kinds = {"lstm cell": nn.LSTMCell(3, 8), "gru cell": nn.GRUCell(3, 8), "joined": nn.Linear(11, 8)}
        self.step = kinds.get(way) or (nn.LSTM if "lstm" in way else nn.GRU)(3, 8, batch_first=True)
        self.recurrent = nn.Linear(8, 8, bias=False) if way == "added" else None
        self.step = nn.Linear(3, 8) if way == "added" else self.step
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Of x [batch, time, 3]."""
        h = c = torch.zeros(len(x), 8)
        state = None
        width = 4 if "chunks" in self.way else 1
        for t in range(0, x.shape[1], width):
            if self.way == "lstm cell":
                h, c = self.step(x[:, t], (h, c))
            elif self.way == "gru cell":
                h = self.step(x[:, t], h)
            elif self.way == "joined":
                h = torch.tanh(self.step(torch.cat([x[:, t], h], 1)))
            elif self.recurrent is not None:
                h = torch.tanh(self.step(x[:, t]) + self.recurrent(h))
            else:
                output, state = self.step(x[:, t : t + width], state)
                h = output[:, -1]
        return self.head(h)


@pytest.mark.parametrize("way", ["lstm cell", "gru cell", "lstm a step", "gru a step", "lstm chunks", "gru chunks"])
def test_calls_that_hand_on_their_state_are_one_sequence(way: str) -> None:
    torch.manual_seed(0)
    model, batch = Loops(way), (torch.randn(5, 12, 3), torch.tensor([0, 1, 0, 1, 1]))
    found, expected = _watched(model, batch), gradtrace.through_time(model, _loss, batch)
    (ours,), (theirs,) = found.chains, expected.chains
    assert (ours.name, ours.num_steps, ours.inputs, ours.cuts) == ("step", 12, "varying", ())
    for name in SERIES:
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-4, abs=1e-12), name
    assert ours.horizon is not None


@pytest.mark.parametrize(("way", "name"), [("joined", "step"), ("added", "recurrent")])
def test_a_loop_of_the_users_own_is_read_from_the_tape(way: str, name: str) -> None:
    torch.manual_seed(0)
    model, batch = Loops(way), (torch.randn(5, 12, 3), torch.tensor([0, 1, 0, 1, 1]))
    found, expected = _watched(model, batch), gradtrace.through_time(model, _loss, batch)
    (ours,), (theirs,) = found.chains, expected.chains
    num = ours.num_steps
    assert (ours.name, ours.inputs, num) == (name, "varying", 10)  # the first two states are not on the tape
    assert ours.hidden == pytest.approx(theirs.hidden[-num - 1 :], rel=1e-4)
    assert ours.linear == pytest.approx(theirs.linear[-num:], rel=1e-4)
    assert ours.recurrent == pytest.approx(theirs.recurrent[-num:], rel=1e-4)
    assert ours.reach is None
    assert ours.own_horizon.decades_per_step < 0


def test_where_several_weights_read_the_state_their_parts_are_not_known() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.gate, self.new, self.head = (
                nn.Linear(3, 8),
                nn.Linear(8, 8),
                nn.Linear(8, 8),
                nn.Linear(8, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros(len(x), 8)
            for t in range(x.shape[1]):
                z, n = torch.sigmoid(self.gate(h)), torch.tanh(self.into(x[:, t]) + self.new(h))
                h = (1 - z) * n + z * h
            return self.head(h)

    torch.manual_seed(0)
    model, batch = Gated(), (torch.randn(5, 12, 3), torch.tensor([0, 1, 0, 1, 1]))
    found, expected = _watched(model, batch), gradtrace.through_time(model, _loss, batch)
    (ours,), (theirs,) = found.chains, expected.chains
    assert ours.num_weights == theirs.num_weights == 2
    assert ours.hidden == pytest.approx(theirs.hidden[-len(ours.hidden) :], rel=1e-4)
    assert ours.budget() == {}
    assert f"Over {ours.num_steps} steps: -" in str(found)


def test_a_fault_of_ours_costs_the_recurrences_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise ValueError("as planned")

    monkeypatch.setattr("gradtrace.recurrence.fused._chains", fails)
    model, batch = Last("LSTM", batch_first=True), (torch.randn(5, 12, 3), torch.tensor([0, 1, 0, 1, 1]))
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with gradtrace.watch(model, optimizer) as watch:
        _loss(model, batch).backward()
        optimizer.step()
    assert watch.diagnosis.traces[0].through_time is None
    assert "what recurrences do to the gradient was not measured (ValueError: as planned)" in watch.run.notes


@pytest.mark.parametrize("way", ["joined", "lstm a step"])
def test_a_torch_that_tells_no_numbers_of_ops_tells_of_no_recurrence(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = Loops(way), (torch.randn(5, 12, 3), torch.tensor([0, 1, 0, 1, 1]))
    for module in ("fused", "uses"):
        monkeypatch.setattr(f"gradtrace.recurrence.{module}.node_sequence_nr", lambda _: LEAF_SEQUENCE_NR)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with gradtrace.watch(model, optimizer) as watch:
        _loss(model, batch).backward()
        optimizer.step()
    assert watch.diagnosis.traces[0].through_time is None


def test_a_loss_that_a_scaler_multiplied_is_told_as_it_was() -> None:
    torch.manual_seed(0)
    model, batch = Last("LSTM", batch_first=True), (torch.randn(5, 12, 3), torch.tensor([0, 1, 0, 1, 1]))
    optimizer, scaler = torch.optim.SGD(model.parameters(), 0.0), torch.amp.GradScaler("cpu", init_scale=1024.0)
    with gradtrace.watch(model, optimizer) as watch:
        scaler.scale(_loss(model, batch)).backward()
        scaler.step(optimizer)
        scaler.update()
    found, expected = watch.diagnosis.traces[0].through_time, gradtrace.through_time(model, _loss, batch)
    assert found is not None
    assert found.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-5)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)


def test_a_state_that_is_detached_between_calls_is_a_cut() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            first, (h, c) = self.rnn(x[:, :6])
            second, _ = self.rnn(x[:, 6:], (h.detach(), c.detach()))
            return self.head(first[:, -1] + second[:, -1])

    torch.manual_seed(0)
    model, batch = Net(), (torch.randn(5, 12, 3), torch.tensor([0, 1, 0, 1, 1]))
    found, expected = _watched(model, batch), gradtrace.through_time(model, _loss, batch)
    (ours,), (theirs,) = found.chains, expected.chains
    assert ours.cuts == theirs.cuts == (6,)
    assert ours.hidden == pytest.approx(theirs.hidden, rel=1e-4)


def test_the_same_weights_over_depth_are_no_sequence() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.block, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.into(x)
            for _ in range(8):
                h = torch.tanh(self.block(h))
            return self.head(h)

    found = _watched(Deep(), (torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1])))
    assert [(chain.name, chain.inputs, chain.num_steps) for chain in found.chains] == [("block", "none", 7)]


# ------------------------------------------------------------------------------------------------ one call, held


def _held(lstm: nn.LSTM, x: Tensor) -> tuple[FusedCalls, Tensor]:
    """`lstm` called with `x`, as a recorder would tell of it, and a loss of it that is about to go back."""
    calls = FusedCalls(Origins())
    state = torch.zeros(1, len(x), lstm.hidden_size)
    args = (x, (state, state), lstm._flat_weights, True, 1, 0.0, True, False, True)
    held = calls.before(torch.lstm, args, {}, Site("rnn", "LSTM", 0, ""))
    result = torch.lstm(*args)
    calls.after(held, result)
    loss = result[0][:, -1].square().sum()
    calls.arm(walk([loss.grad_fn]).nodes if loss.grad_fn is not None else [])
    return calls, loss


def test_weights_that_moved_since_are_not_measured() -> None:
    lstm = nn.LSTM(3, 4, batch_first=True)
    calls, loss = _held(lstm, torch.randn(2, 6, 3))
    loss.backward()
    with torch.no_grad():
        lstm.weight_hh_l0.mul_(2)
    assert calls.chains() == ()


def test_weights_that_were_gathered_and_freed_since_are_not_read() -> None:
    lstm = nn.LSTM(3, 4, batch_first=True)
    calls, loss = _held(lstm, torch.randn(2, 6, 3))
    loss.backward()
    lstm.weight_hh_l0.untyped_storage().resize_(0)
    assert calls.chains() == ()


def test_no_gradient_came() -> None:
    calls, _ = _held(nn.LSTM(3, 4, batch_first=True), torch.randn(2, 6, 3))
    assert calls.chains() == ()


def test_nothing_is_held_afterwards_and_no_hook_stays() -> None:
    lstm, x = nn.LSTM(3, 4, batch_first=True), torch.randn(2, 6, 3)
    calls, loss = _held(lstm, x)
    loss.backward()
    seen, node = weakref.ref(x), loss.grad_fn
    assert len(calls.chains()) == 1
    assert calls.chains() == ()
    del x, loss, node
    gc.collect()
    assert seen() is None
    assert all(parameter.grad is not None and not parameter._backward_hooks for parameter in lstm.parameters())


def test_a_step_alone_and_a_pass_without_gradients_are_left_alone() -> None:
    lstm = nn.LSTM(3, 4, batch_first=True)
    calls, loss = _held(lstm, torch.randn(2, 1, 3))
    loss.backward()
    assert calls.chains() == ()
    with torch.no_grad():
        calls, _ = _held(lstm, torch.randn(2, 6, 3))
    assert calls.chains() == ()


def test_what_a_constant_gets_is_known_of_a_loss_at_every_step_too() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.cell, self.head = nn.LSTM(3, 8, batch_first=True), nn.GRUCell(3, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor, targets: Tensor) -> Tensor:
            h = self.encoder(x)[1][0][-1]
            loss = torch.zeros(())
            for t in range(targets.shape[1]):
                h = self.cell(x[:, t], h)
                loss = loss + F.cross_entropy(self.head(h), targets[:, t])
            return loss

    torch.manual_seed(0)
    model = Decoder()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with gradtrace.watch(model, optimizer) as watch:
        model(torch.randn(8, 40, 3), torch.arange(8)[:, None].expand(8, 3) % 4).backward()
        optimizer.step()
    (found,) = [f for f in watch.diagnosis.findings if f.cause == "recurrent_contraction"]
    (constant,) = [e.value for e in found.evidence if e.name == "loss of the best constant"]
    assert constant == pytest.approx(3 * math.log(4), rel=1e-5)
    assert found.severity == "info"


@pytest.mark.parametrize("between", ["mask", "dropout"])
def test_what_the_users_code_does_to_a_state_between_two_calls_ends_no_sequence(between: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRUCell(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros(len(x), 8)
            keep = torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0])[:, None]
            for t in range(x.shape[1]):
                new = self.cell(x[:, t], h)
                h = keep * new + (1 - keep) * h if between == "mask" else F.dropout(new, 0.2)
            return self.head(h)

    torch.manual_seed(0)
    model, batch = Net(), (torch.randn(5, 12, 3), torch.tensor([0, 1, 0, 1, 1]))
    found = _watched(model, batch)
    (ours,) = found.chains
    assert (ours.name, ours.num_steps, ours.cuts, ours.reach) == ("cell", 12, (), None)
    if between == "mask":  # dropout would draw again
        (theirs,) = gradtrace.through_time(model, _loss, batch).chains
        for name in ("linear", "recurrent", "carried"):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-4, abs=1e-12), name
    assert all(norm > 0 for norm in ours.hidden)


# ------------------------------------------------------------------------------------------ beside what else is done


def test_gradients_of_other_passes_are_none_of_the_steps() -> None:
    torch.manual_seed(0)
    model, batch = Last("LSTM", batch_first=True), (torch.randn(5, 12, 3), torch.tensor([0, 1, 0, 1, 1]))
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with gradtrace.watch(model, optimizer) as watch:
        torch.autograd.grad(1e3 * model(batch[0] + 1).square().mean(), list(model.parameters()))
        _loss(model, batch).backward()
        optimizer.step()
    found, expected = watch.diagnosis.traces[0].through_time, gradtrace.through_time(model, _loss, batch)
    assert found is not None
    reached = [chain for chain in found.chains if any(chain.hidden)]
    assert [chain.hidden for chain in reached] == [pytest.approx(chain.hidden, rel=1e-4) for chain in expected.chains]


def test_many_backward_passes_at_once_go_as_they_would() -> None:
    model = Last("GRU", batch_first=True)
    with gradtrace.watch(model, torch.optim.SGD(model.parameters(), 0.0)):
        total = model(torch.randn(4, 12, 3)).sum(0)
        found = torch.autograd.grad(total, list(model.parameters()), torch.eye(2), is_grads_batched=True)
    assert [gradient.shape[0] for gradient in found] == [2] * len(found)


@pytest.mark.parametrize("kind", ["LSTM", "plain"])
def test_passes_that_nobody_sends_back_leave_nothing_behind(kind: str) -> None:
    model: Any = Last("LSTM", batch_first=True) if kind == "LSTM" else nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2))
    optimizer, made, alive = torch.optim.SGD(model.parameters(), 0.0), list[Any](), []
    inner = model.rnn if kind == "LSTM" else model[0]
    inner.register_forward_hook(lambda _m, _args, y: made.append(weakref.ref(y[0] if isinstance(y, tuple) else y)))
    x = torch.randn(4, 12, 3)
    with gradtrace.watch(model, optimizer, every=1, budget=10.0):
        for _ in range(3):
            for _ in range(4):
                model(x).sum()
            gc.collect()
            alive.append(sum(ref() is not None for ref in made))
            model(x).sum().backward()
            optimizer.step()
    assert len(made) == 15
    assert alive == [0, 0, 0]


def test_a_penalty_on_weights_is_not_kept_either() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2))
    optimizer, kept = torch.optim.SGD(model.parameters(), 0.0), []
    with gradtrace.watch(model, optimizer):
        loss = model(torch.randn(4, 3)).sum()
        for parameter in model.parameters():
            square = parameter.abs()
            kept.append(weakref.ref(square))
            loss = loss + square.sum()
        del square
        assert sum(ref() is not None for ref in kept) == 0
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_a_scaler_and_accumulation_change_nothing_of_what_a_constant_gets(scale: float) -> None:
    torch.manual_seed(0)
    model = Last("LSTM", batch_first=True)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale > 1.0)
    with gradtrace.watch(model, optimizer, budget=1.0) as watch:
        for _ in range(6):
            optimizer.zero_grad()
            for _ in range(2):
                x = torch.randn(32, 30, 3)
                scaler.scale(_loss(model, (x, (x[:, 0, 0] > 0).long())) / 2).backward()
            scaler.step(optimizer)
            scaler.update()
    (found,) = [f for f in watch.diagnosis.findings if f.cause == "recurrent_contraction"]
    (constant,) = [e.value for e in found.evidence if e.name == "loss of the best constant"]
    assert constant == pytest.approx(math.log(2), rel=0.15)


def test_a_compiled_model_called_twice_has_two_sequences() -> None:
    model = Last("RNN", batch_first=True)
    nn.init.orthogonal_(model.rnn.weight_hh_l0, 0.4)
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with gradtrace.watch(compiled, optimizer) as watch:
        (compiled(torch.randn(5, 12, 3)) - compiled(torch.randn(5, 12, 3))).square().mean().backward()
        optimizer.step()
    found = watch.diagnosis.traces[0].through_time
    assert found is not None
    assert [chain.call for chain in found.chains] == [0, 1]
    assert len(layers(found)) == 2
