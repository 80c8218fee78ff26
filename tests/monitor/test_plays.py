"""Calls between two steps of which nothing is learnt: an agent plays, an evaluation runs in grad mode."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradtrace
from gradtrace.monitor.nonfinite.forward_calls import Calls
from gradtrace.monitor.traces.dropped import MOST_DROPPED
from gradtrace.monitor.watch import Watch
from gradtrace.tape.recorder import Recorder

NUM_PLAYS = 30


class Agent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 16), nn.Linear(16, 2)

    def act(self, x: Tensor) -> int:
        """Not through `forward`: its parts are called one by one."""
        return int(self.head(torch.tanh(self.body(x))).argmax())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)))  # type: ignore[no-any-return]


def trained(
    play: Any, *, watched: bool = True, num_steps: int = 5, batch: int = 16, every: int = 1
) -> tuple[Any, dict[str, Tensor], list[Any]]:
    torch.manual_seed(0)
    model = Agent()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = gradtrace.watch(model, optimizer, budget=10.0, every=every) if watched else None
    played = []
    with watch if watch is not None else torch.enable_grad():
        for _ in range(num_steps):
            played += [play(model, torch.randn(4)) for _ in range(NUM_PLAYS)]
            optimizer.zero_grad()
            x = torch.randn(batch, 4) if batch else torch.randn(4)
            model(x).square().mean().backward()
            optimizer.step()
    return watch, model.state_dict(), played


def act(model: Agent, x: Tensor) -> int:
    return model.act(x)


def call(model: Agent, x: Tensor) -> int:
    return int(model(x).argmax())


@pytest.mark.parametrize("play", [act, call])
def test_they_are_not_looked_at_and_the_step_is_traced(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    own = Recorder.__torch_function__

    def count(self: Recorder, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        looked.append(func)
        return own(self, func, types, args, kwargs)

    monkeypatch.setattr(Recorder, "__torch_function__", count)
    watch, weights, played = trained(play)
    traces = watch.traces
    assert len(traces) == 5  # at every step
    assert all(trace.batch_size == 16 for trace in traces)
    assert looked.count(torch.tanh) <= len(traces) * (2 * MOST_DROPPED + 2)
    assert all(op.site.source for op in traces[0].ops if op.name != "torch::autograd::AccumulateGrad")
    _, bare_weights, bare_played = trained(play, watched=False)
    assert played == bare_played
    assert all(torch.equal(weights[name], bare_weights[name]) for name in weights)


@pytest.mark.parametrize("play", [act, call])
@pytest.mark.parametrize("every", [1, 100])
def test_nor_are_they_held_whether_a_step_is_traced_or_not(
    play: Any, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []
    own = Calls.entered

    def count(self: Calls, *args: Any) -> Any:
        held.append(args[0])
        return own(self, *args)

    monkeypatch.setattr(Calls, "entered", count)
    watch, _, _ = trained(play, every=every)
    assert len(watch.traces) == (5 if every == 1 else 4)  # 0, 1, 2 and 4 are early
    num_kinds = 3 if play is act else 1  # at the first step each part of an agent that is not called counts by itself
    assert len(held) <= 5 * (2 * MOST_DROPPED + 1) * num_kinds
    assert watch.run.steps.num_steps == 5


def test_a_step_whose_calls_are_like_them_is_missed_once() -> None:
    watch, _, _ = trained(call, batch=0)
    assert watch.trace_steps == (1, 2, 3, 4)
    modules = {op.site.module for op in watch.traces[0].ops}
    assert modules >= {"body", "head"}


@pytest.mark.parametrize("thrown_away", [False, True])
def test_what_is_unrolled_is_seen_from_its_first_call_to_its_last(thrown_away: bool) -> None:
    """Where outputs are read and thrown away, at the second step."""
    torch.manual_seed(0)
    cell, head = nn.RNNCell(3, 8), nn.Linear(8, 1)
    optimizer = torch.optim.SGD([*cell.parameters(), *head.parameters()], lr=0.1)
    with gradtrace.watch({"cell": cell, "head": head}, optimizer, budget=10.0) as watch:
        for _ in range(2):
            hidden = torch.zeros(4, 8)
            for _ in range(NUM_PLAYS):
                hidden = cell(torch.randn(4, 3), hidden)
                if thrown_away:
                    head(hidden)
            head(hidden).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert watch.trace_steps == ((1,) if thrown_away else (0, 1))
    assert all(sum(op.name == "TanhBackward0" for op in trace.ops) == NUM_PLAYS for trace in watch.traces)


def test_a_pass_that_goes_through_a_call_that_was_not_looked_at_is_no_half_trace() -> None:
    """Its last call has shapes of its own, and is seen."""
    torch.manual_seed(0)
    body, head = nn.Linear(4, 8), nn.Linear(8, 1)
    optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1)
    with gradtrace.watch({"body": body, "head": head}, optimizer, budget=10.0) as watch:
        for _ in range(2):
            for _ in range(NUM_PLAYS):
                body(torch.randn(16, 4))
            head(body(torch.randn(16, 4))).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert watch.trace_steps == (1,)
    assert {op.site.module for op in watch.traces[0].ops} >= {"body", "head"}


def test_who_plays_in_another_thread_before_the_first_step_does_not_end_the_recording() -> None:
    """What sees the functions of torch is of one thread, and can be left in that alone."""
    torch.manual_seed(0)
    model = Agent()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradtrace.watch(model, optimizer, every=1) as watch:
        for _ in range(3):
            optimizer.zero_grad()
            loss = model(torch.randn(16, 4)).square().mean()
            player = threading.Thread(target=lambda: [call(model, torch.randn(4)) for _ in range(NUM_PLAYS)])
            player.start()
            player.join()
            loss.backward()
            optimizer.step()
    assert watch.run.notes == ()
    assert watch.trace_steps == (0, 1, 2)
    assert all(op.site.source for op in watch.traces[0].ops if op.name == "MeanBackward0")


class Meanwhile(nn.Module):
    """In the midst of its first forward pass another training takes a step, in a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 1)
        self.is_new = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.first(x))
        if self.is_new:
            self.is_new = False
            thread = threading.Thread(target=another_training)
            thread.start()
            thread.join()
        y: torch.Tensor = self.last(hidden)
        return y


def another_training() -> None:
    other = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(other.parameters(), 0.1)
    other(torch.ones(2, 3)).sum().backward()
    optimizer.step()


def test_a_training_in_another_thread_neither_joins_nor_ends_the_recording() -> None:
    model = Meanwhile()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Watch(model, optimizer, every=1, find=lambda _: {"other": nn.Linear(3, 1)}) as watch:
        for _ in range(3):
            loss = model(torch.randn(8, 4)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert [one.name for one in watch.run.header.parameters] == [name for name, _ in model.named_parameters()]
    assert {op.site.module for op in watch.traces[0].ops if op.weights} == {"first", "last"}
