"""State comes back from wherever it hides, within bounds, and what does not is said."""

from __future__ import annotations

import copy
import functools
import itertools
import random
import sys
import threading
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradtrace
from gradtrace.measure.snapshot import Bounds, Snapshot


class Plain:
    """An object with attributes."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


@dataclass(slots=True)
class Slotted:
    """One without a dictionary."""

    count: int = 0
    rows: Any = None


@dataclass(frozen=True, slots=True)
class Frozen:
    rows: list[int]


class Registry(dict[str, Any]):
    """A dictionary that counts what is written to it."""

    writes = 0

    def __setitem__(self, key: str, value: Any) -> None:
        self.writes += 1
        super().__setitem__(key, value)


def _write(registry: Any) -> None:
    registry["b"] = 2


def _put(values: Any, index: Any, value: Any) -> None:
    values[index] = value


def _slots_of(values: Slotted) -> Any:
    return getattr(values, "count", "gone"), values.rows


def _leave(values: Slotted) -> None:
    del values.count
    values.rows.append(1)


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Any], Any]]] = {
    # what it is, what changes it, what shows it
    "object": (lambda: Plain(n=1), lambda o: vars(o).update(n=2, more=3), vars),
    "object in object": (lambda: Plain(inner=Plain(n=1)), lambda o: setattr(o.inner, "n", 5), lambda o: o.inner.n),
    "slots": (lambda: Slotted(1, []), _leave, _slots_of),
    "frozen": (lambda: Frozen([1]), lambda o: o.rows.append(2), lambda o: o.rows),
    "namespace": (lambda: SimpleNamespace(n=[1]), lambda o: o.n.append(2), lambda o: o.n),
    "nested": (lambda: [{"a": ({"b": deque([1], 3)},)}], lambda o: o[0]["a"][0]["b"].append(2), repr),
    "ordered": (lambda: OrderedDict(a=1, b=2), lambda o: o.move_to_end("a"), list),
    "default": (lambda: defaultdict(list), lambda o: o["new"].append(1), dict),
    "counter": (lambda: Counter(a=3), lambda o: o.update("ab"), dict),
    "subclass": (lambda: Registry(a=1), _write, lambda o: (dict(o), o.writes)),
    "set": (lambda: {1, 2}, lambda o: o.add(3), sorted),
    "bytes": (lambda: bytearray(b"ab"), lambda o: o.extend(b"c"), bytes),
    "array": (lambda: array("d", [1.0]), lambda o: o.append(2.0), list),
    "numpy": (lambda: np.array([1.0, np.nan]), lambda o: _put(o, 0, 3.0), str),
    "numpy of objects": (lambda: np.array([[1], None], object), lambda o: o[0].append(3), str),
    "tensor": (lambda: torch.zeros(2), lambda o: o.add_(1), lambda o: o.tolist()),
    "tensor past autograd": (lambda: torch.zeros(2), lambda o: o.data.add_(1), lambda o: o.tolist()),
    "tensor's memory": (lambda: torch.zeros(2), lambda o: setattr(o, "data", torch.ones(3)), lambda o: o.tolist()),
    "tensor of half": (lambda: torch.zeros(2).half(), lambda o: o.fill_(1), lambda o: o.tolist()),
    "tensor in a dict": (lambda: {"k": [torch.zeros(2)]}, lambda o: o["k"][0].mul_(0).add_(2), str),
    "weight's memory": (
        lambda: nn.Linear(1, 1),
        lambda o: setattr(o.weight, "data", torch.ones(1, 1)),
        lambda o: o.weight.item(),
    ),
    "replaced weight": (
        lambda: nn.Linear(1, 1),
        lambda o: setattr(o, "weight", nn.Parameter(torch.ones(2, 1))),
        lambda o: o.weight.shape,
    ),
    "module in a list": (
        lambda: [nn.BatchNorm1d(2)],
        lambda o: o[0](torch.ones(3, 2)),
        lambda o: o[0].state_dict()["num_batches_tracked"].item(),
    ),
    "hook of a module": (nn.ReLU, lambda o: o.register_forward_hook(lambda *_: None), lambda o: len(o._forward_hooks)),
    "torch generator": (
        lambda: {"g": torch.Generator()},
        lambda o: torch.rand(1, generator=o["g"]),
        lambda o: o["g"].get_state().sum().item(),
    ),
    "numpy generator": (
        lambda: [np.random.default_rng(1)],
        lambda o: o[0].random(),
        lambda o: copy.deepcopy(o[0]).random(),
    ),
    "numpy legacy": (lambda: (np.random.RandomState(1),), lambda o: o[0].rand(), lambda o: copy.deepcopy(o[0]).rand()),
    "python generator": (lambda: Plain(r=random.Random(1)), lambda o: o.r.random(), lambda o: o.r.getstate()),
    "iterator": (lambda: iter([1, 2, 3]), next, lambda o: list(copy.copy(o))),
    "iterator over a range": (lambda: Plain(it=iter(range(9))), lambda o: next(o.it), lambda o: list(copy.copy(o.it))),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changed_comes_back(name: str) -> None:
    make, change, shown = CHANGES[name]
    value = make()
    before = repr(shown(value))
    snapshot = Snapshot.of({"value": value})
    for _ in range(2):
        change(value)
        assert name == "iterator" or repr(shown(value)) != before
        told = snapshot.restore()
        if name == "iterator over a range" and sys.version_info >= (3, 12):  # such a one only goes forward
            assert told == ("not put back: value.it, a range iterator that cannot be wound back",)
            return
        assert told == ()
        assert repr(shown(value)) == before


COUNT = 0
LOG: list[int] = []


class Trainer:
    """Keeps state in its class, in a global, in a list and in itself."""

    calls = 0

    def loss(self, model: Any, batch: Any) -> Tensor:
        global COUNT  # noqa: PLW0603
        COUNT += 1
        LOG.append(COUNT)
        Trainer.calls += 1
        self.latest = batch
        batch.add_(1)
        return model(batch).mean()


def test_what_a_loss_function_changes_comes_back() -> None:
    trainer, step, batch = Trainer(), 0, torch.zeros(3, 2)

    def loss_fn(model: Any, batch: Any, seen: list[int] = []) -> Tensor:  # noqa: B006
        nonlocal step
        step += 1
        seen.append(1)
        loss_fn.calls = 1  # type: ignore[attr-defined]
        return trainer.loss(model, batch)

    for function in (loss_fn, functools.partial(loss_fn), trainer.loss):
        trace = gradtrace.trace(nn.Linear(2, 1), function, batch)
        assert trace.coverage.notes == ()
        assert (step, loss_fn.__defaults__, vars(loss_fn), vars(trainer)) == (0, ([],), {}, {})
        assert (COUNT, LOG, Trainer.calls, batch.sum().item()) == (0, [], 0, 0.0)


def test_what_cannot_be_kept_is_said() -> None:
    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 1)
            self.noise = (x for x in itertools.repeat(0.5))
            self.count = itertools.count()
            self.steps = iter({1: 2, 3: 4})

        def forward(self, x: Tensor) -> Tensor:
            next(self.count)
            with torch.no_grad():
                self.linear.weight.mul_(next(self.noise))
            return self.linear(x)

    notes = gradtrace.trace(Draws(), lambda model, x: model(x).mean(), torch.ones(3, 2)).coverage.notes
    assert notes == (
        "not kept: model.noise, a generator that cannot be wound back should the pass draw from it",
        "not put back: model.count, a count that cannot be wound back",
        "not put back: model.linear.weight, a weight that was written to in place",
    )


def test_what_the_bounds_leave_out_is_said() -> None:
    values = {
        "small": torch.zeros(2),
        "large": torch.zeros(64),
        "array": np.zeros(64),
        "rows": [[i] for i in range(30)],
    }
    snapshot = Snapshot.of({"values": values}, Bounds(num_objects=48, num_bytes=128))
    values["small"].add_(1)
    assert [line.partition(",")[0] for line in snapshot.restore()] == [
        "not kept: values.array",
        "not kept: values.rows.4 and 25 more",
    ]
    values["large"].add_(1)
    assert "not put back: values.large, written to in place, and larger than what is copied" in snapshot.restore()
    assert values["small"].tolist() == [0.0, 0.0]


def test_what_lies_beyond_the_bounds_is_not_looked_at() -> None:
    looked_at = []

    class Sees:
        @property
        def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
            looked_at.append(1)
            return {}

    snapshot = Snapshot.of({"first": [Sees() for _ in range(20)], "many": [Sees() for _ in range(100)]}, Bounds(50))
    assert len(looked_at) == 20
    assert snapshot.restore() == ("not kept: many, there is too much to look into",)


def test_what_belongs_to_others_is_left_alone() -> None:
    lock, weights = threading.Lock(), nn.Linear(2, 2)
    optimizer = torch.optim.SGD(weights.parameters(), lr=0.1, momentum=0.9)
    shared = Plain(lock=lock, rows=[1])
    snapshot = Snapshot.of({"shared": shared, "optimizer": optimizer, "thread": threading.current_thread()})
    shared.rows.append(2)
    optimizer.param_groups[0]["lr"] = 0.5
    assert snapshot.restore() == ("not kept: shared, it is shared between threads",)
    assert (shared.rows, optimizer.param_groups[0]["lr"]) == ([1, 2], 0.5)


def test_an_object_that_raises_keeps_no_other_from_coming_back() -> None:
    class Bad(dict[str, int]):
        __slots__ = ()

        @property
        def __dict__(self) -> Any:  # type: ignore[override]
            raise RuntimeError("no")

    good = {"n": 1}
    snapshot = Snapshot.of({"bad": Bad(), "good": good})
    good["n"] = 2
    assert snapshot.restore() == ("not kept: bad, RuntimeError: no",)
    assert good == {"n": 1}


def test_an_unchanged_container_is_not_touched() -> None:
    values = [1, 2, 3]
    going = iter(values)
    snapshot = Snapshot.of({"values": values})
    next(going)
    snapshot.restore()
    assert list(going) == [2, 3]
