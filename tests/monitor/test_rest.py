"""What still holds while the watch rests: steps are counted, nothing is interposed, a NaN is noticed and explained."""

from __future__ import annotations

import itertools
import math
import re
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.optim import optimizer as optimizer_module

import gradtrace
from gradtrace.monitor.hooks import patches
from gradtrace.monitor.nonfinite.detector import Detector
from gradtrace.monitor.owner import Owner
from gradtrace.monitor.rest import LOOK_EVERY, MOST_UNSEEN, Notes
from gradtrace.monitor.schedule.cost import Level
from gradtrace.monitor.schedule.schedule import OPENING, Schedule
from gradtrace.monitor.seats import Seats
from gradtrace.monitor.step import Rows
from gradtrace.monitor.watched import Watched
from gradtrace.records.vocabulary import Severity, Symptom

LONG = 50


@pytest.fixture(autouse=True)
def long_rests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After the opening the watch rests for 50 steps, and measures ten."""
    turns = itertools.cycle([(Level.REST, LONG), (Level.MEASURE, 10)])
    monkeypatch.setattr(Schedule, "_next", lambda self, step: next(turns))
    monkeypatch.setattr(Schedule, "_room_s", lambda self: 1.0)
    monkeypatch.setattr("gradtrace.monitor.schedule.schedule.REST_STRETCHED", math.inf)  # a busy machine ends none
    return iter(())


class Net(nn.Module):
    """Takes the logarithm of what is zero for some units, from one step on."""

    offset = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.log(torch.relu(self.first(x)) + self.offset))  # type: ignore[no-any-return]


LINE = Net.forward.__code__.co_firstlineno + 1


def trained(num_steps: int, bad: int | None = None) -> tuple[gradtrace.monitor.watch.Watch, list[bool]]:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    interposed = []
    with gradtrace.watch(model, optimizer) as watch:
        for number in range(num_steps):
            model.offset = 0.0 if bad is not None and number >= bad else 1.0
            optimizer.zero_grad()
            model(torch.randn(16, 4)).square().mean().backward()
            optimizer.step()
            interposed.append("__call__" in vars(Net))
    return watch, interposed


def test_steps_are_counted_and_nothing_is_interposed_at_modules() -> None:
    watch, interposed = trained(200)
    assert watch.run.steps.num_steps == 200
    assert watch.run.steps.first.tolist() == [*range(OPENING), *range(114, 124), *range(174, 184), 199]
    assert interposed[: OPENING - 1] == [True] * (OPENING - 1)
    assert interposed[OPENING : OPENING + LONG - 1] == [False] * (LONG - 1)
    assert "__call__" not in vars(Net)


@pytest.mark.parametrize("bad", [OPENING, OPENING + 7, OPENING + 26, OPENING + LONG - 1])
@pytest.mark.parametrize("are_short", [False, True])
def test_a_nan_at_rest_is_noticed_and_explained_although_the_weights_are_spoilt_by_then(
    bad: int, are_short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradtrace.monitor.rest.LOOK_EVERY_S", math.inf if are_short else 0.0)
    watch, _ = trained(200, bad)
    finding = watch.diagnosis.findings[0]
    assert finding.symptom is Symptom.NONFINITE
    assert finding.step is not None
    assert bad <= finding.step <= bad + 2 + (MOST_UNSEEN if are_short else LOOK_EVERY)
    assert "log" in finding.message
    assert finding.source.endswith(f"test_rest.py:{LINE}")
    assert len(watch.run.steps.first[watch.run.steps.first >= bad]) > 20  # it does not go back to sleep


def test_a_nan_right_before_the_end_is_no_healthy_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradtrace.monitor.rest.LOOK_EVERY", 64)
    watch, _ = trained(OPENING + 20, OPENING + 16)
    (finding,) = [f for f in watch.diagnosis.findings if f.severity is Severity.CRITICAL]
    assert (finding.code, finding.step) == ("GT317", OPENING + 19)
    assert f"one of steps {OPENING} to {OPENING + 19}" in finding.message
    assert re.search(rf"log \(\S*test_rest.py:{LINE}\)", finding.message)  # the only op of the step that has an edge
    assert watch.run.steps.nonfinite.tolist() == [False] * OPENING + [True]


@pytest.mark.parametrize("are_seen", [False, True])
def test_steps_that_run_away_at_rest_are_not_told_as_an_unsafe_op(
    are_seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the weights from before the rest the batch is harmless, and no op of the step has an edge."""
    monkeypatch.setattr("gradtrace.monitor.rest.LOOK_EVERY_S", 0.0)  # every 16 steps, however short they are
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradtrace.watch(model, optimizer) as watch:
        for number in range(OPENING + (LONG - 1 if are_seen else 14)):
            optimizer.param_groups[0]["lr"] = 0.01 if number < OPENING + 2 else 1e20
            optimizer.zero_grad()
            model(torch.randn(16, 4)).square().mean().backward()
            optimizer.step()
    finding = watch.diagnosis.findings[0]
    assert finding.code == "GT312"
    assert f"one of steps {OPENING} to " in finding.message
    assert ("this batch gives finite numbers" in finding.message) is are_seen
    assert "model's output is finite" not in finding.message


def test_an_optimizer_that_comes_during_a_rest_ends_it() -> None:
    torch.manual_seed(0)
    model = Net()
    first, second = (
        torch.optim.SGD(model.first.parameters(), lr=0.01),
        torch.optim.SGD(model.last.parameters(), lr=0.01),
    )

    def train(num_steps: int, *optimizers: torch.optim.Optimizer) -> None:
        for _ in range(num_steps):
            model.zero_grad()
            model(torch.randn(16, 4)).square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()

    with gradtrace.watch(model, first) as watch:
        train(OPENING + 10, first)
        assert not is_interposed()
        train(1, first, second)  # second is new
        assert is_interposed()
        train(69, first, second)
        assert len(watch.run.header.optimizers) == 2
    assert watch.run.steps.num_steps == OPENING + 81  # its first step was a row of its own


def test_a_training_goes_on_in_another_thread_after_the_one_it_rested_in_has_ended() -> None:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def train(num_steps: int) -> None:
        for _ in range(num_steps):
            optimizer.zero_grad()
            model(torch.randn(16, 4)).square().mean().backward()
            optimizer.step()

    with gradtrace.watch(model, optimizer) as watch:
        for num_steps in (OPENING + 10, 40):
            thread = threading.Thread(target=train, args=(num_steps,))
            thread.start()
            thread.join()
    assert watch.run.steps.num_steps == OPENING + 50
    assert watch.diagnosis.healthy


def test_a_gan_at_rest_has_the_steps_that_it_has_awake() -> None:
    torch.manual_seed(0)
    one, other = Net(), Net()
    first, second = (torch.optim.SGD(model.parameters(), lr=0.01) for model in (one, other))
    with gradtrace.watch({"one": one, "other": other}, [first, second]) as watch:
        for _ in range(150):
            for model, optimizer in ((one, first), (other, second)):
                optimizer.zero_grad()
                model(torch.randn(16, 4)).square().mean().backward()
                optimizer.step()
    assert watch.run.steps.num_steps == 150
    assert watch.run.steps.first.tolist() == [*range(OPENING), *range(114, 124), 149]


def test_at_rest_torch_is_almost_as_it_was_and_what_was_imported_by_name_is_seen_again_afterwards() -> None:
    own, before = torch.autograd.backward, dict(optimizer_module._global_optimizer_pre_hooks)
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    resting, hooks, seen = [], [], []
    with gradtrace.watch(model, optimizer) as watch:
        imported = torch.autograd.backward
        for _ in range(200):
            optimizer.zero_grad()
            imported(model(torch.randn(16, 4)).square().mean())
            optimizer.step()
            resting.append(not is_interposed())
            hooks.append(dict(optimizer_module._global_optimizer_pre_hooks))
            seen.append(torch.autograd.backward is not own)
    rests = [number for number, is_resting in enumerate(resting) if is_resting]
    assert rests[:LONG] == list(range(OPENING - 1, OPENING - 1 + LONG))
    assert seen == [not is_resting for is_resting in resting]
    assert all(one == hooks[0] for one in hooks)  # other threads may be going through them
    assert watch.run.steps.first.tolist() == [*range(OPENING), *range(114, 124), *range(174, 184), 199]
    assert torch.autograd.backward is own
    assert dict(optimizer_module._global_optimizer_pre_hooks) == before


def is_interposed() -> bool:
    """Whether a watch is told of backward passes."""
    return any(stand_in.handlers for (_, name), stand_in in patches._STANDING.items() if name == "backward")


def test_a_rest_right_after_another_has_a_plan_of_its_own(monkeypatch):
    """The first, of a single step, is soon over: that must not have every later step looked at."""
    lengths = itertools.chain([1], itertools.repeat(400))
    begun, looks = list[int](), list[int]()

    def rests(schedule, step):
        begun.append(step)
        return Level.REST, next(lengths)

    def looked(detector):
        looks.append(0)
        return sees(detector)

    sees = Detector.sees_odd_gradient
    monkeypatch.setattr(Schedule, "_next", rests)
    monkeypatch.setattr("gradtrace.monitor.schedule.schedule.REST_STRETCHED", 4.0)
    monkeypatch.setattr(Detector, "sees_odd_gradient", looked)
    trained(OPENING + 1000)
    assert 2 <= len(begun) <= 10
    assert len(looks) <= 1000 / LOOK_EVERY + 2 * len(begun)


def noted(num_optimizers: int = 1, **options: Any) -> tuple[Notes, list[torch.optim.Optimizer], Owner]:
    optimizers: list[torch.optim.Optimizer] = []
    optimizers += [torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1) for _ in range(num_optimizers)]
    owner = Owner(cast("Watched", SimpleNamespace(seats=Seats(optimizers))), lambda optimizer: False)
    owner.num_steps.update(dict.fromkeys(range(num_optimizers), 0))
    strangers = list[torch.optim.Optimizer]()
    notes = Notes(owner, lambda: None, strangers.append, notes_passes=num_optimizers > 1, **options)
    return notes, optimizers, owner


def test_short_steps_of_the_only_optimizer_are_counted_and_one_in_so_many_is_timed() -> None:
    notes, (optimizer,), owner = noted(only=0)
    notes.plan(10, math.inf)
    notes.look_after(1000)
    for _ in range(95):
        notes.step(optimizer)
    assert len(notes) == 95
    rows = Rows(1)
    ended = notes.tell(rows, owner.num_steps)
    assert [num for num, _ in ended] == [1, *[10] * 9, 4]  # the first by itself: within it the level has changed
    assert [now for _, now in ended] == sorted(now for _, now in ended)
    assert (rows.number, owner.num_steps[0], len(notes)) == (94, 95, 0)


def test_a_step_that_a_scaler_left_out_counts_among_those_that_were_only_counted() -> None:
    notes, (optimizer,), owner = noted(only=0)
    notes.plan(10, math.inf)
    notes.look_after(1000)
    for one in "ss-sssss-ss":
        notes.step(optimizer) if one == "s" else notes.note(0)
    assert sum(num for num, _ in notes.tell(Rows(1), owner.num_steps)) == 11
    assert owner.num_steps[0] == 11


@pytest.mark.parametrize("looks_after", [1, 7, 16])
def test_whoever_looks_is_called_after_as_many_steps_as_planned(looks_after: int) -> None:
    notes, (optimizer,), _ = noted(only=0)
    stepped, looked = list[int](), list[int]()

    def look() -> None:
        looked.append(len(stepped))
        notes.look_after(looks_after)

    notes._look = look
    notes.plan(10, math.inf)
    notes.look_after(looks_after)
    for number in range(1, 60):
        stepped.append(number)
        notes.step(optimizer)
    assert looked == list(range(looks_after, 60, looks_after))


def test_each_step_of_several_optimizers_is_noted_by_itself() -> None:
    notes, optimizers, owner = noted(2)
    for _ in range(5):
        for one in optimizers:
            notes.backward()
            notes.step(one)
    rows = Rows(2)
    ended = notes.tell(rows, owner.num_steps)
    assert [num for num, _ in ended] == [1] * 5
    assert owner.num_steps == {0: 5, 1: 5}
