"""A watch begins once and ends once, whatever happens in between, and nothing of it is left."""

from __future__ import annotations

import gc
import os
import pickle
import weakref
from types import CellType, FunctionType
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.monitor.test_manners import hooks_of, parts
from torch import nn
from torch.amp.grad_scaler import GradScaler

import gradtrace
from gradtrace.errors import InputError
from gradtrace.monitor.recording.sinks.sink import Sink

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def test_a_watch_is_begun_once_and_ends_once() -> None:
    model, optimizer = parts()
    own = torch.autograd.backward
    watch = gradtrace.watch(model, optimizer).start()
    with watch:
        assert hooks_of(optimizer) == 2
        model(torch.randn(4, 6)).sum().backward()
        optimizer.step()
    assert (torch.autograd.backward, hooks_of(optimizer)) == (own, 0)
    with pytest.raises(InputError, match="this watch is closed"), watch:
        pass
    assert (torch.autograd.backward, hooks_of(optimizer)) == (own, 0)


@pytest.mark.parametrize("moment", ["pre", "post"])
def test_a_watch_may_be_closed_from_within_a_step_s_hook(moment: str) -> None:
    model, optimizer = parts()
    watch = gradtrace.watch(model, optimizer, budget=10.0)
    register = getattr(optimizer, f"register_step_{moment}_hook")
    called: list[int] = []
    register(lambda *_: watch.close())
    watch.start()
    register(lambda *_: watch.close())
    register(lambda *_: called.append(1))
    for _ in range(2):
        model(torch.randn(4, 6)).sum().backward()
        optimizer.step()
    assert called == [1, 1]
    watch.close()
    assert hooks_of(optimizer) == 3


def test_a_watch_that_cannot_begin_leaves_nothing_behind() -> None:
    class ReadOnly(type):
        def __setattr__(cls, name: str, value: Any) -> None:
            raise AttributeError(name)

    class Fixed(nn.Linear, metaclass=ReadOnly):
        pass

    model, optimizer = parts()
    own = torch.Tensor.backward, torch.autograd.backward, GradScaler.scale, GradScaler.step
    with pytest.raises(AttributeError):
        gradtrace.watch({"a": model, "b": Fixed(6, 2)}).start()
    assert (torch.Tensor.backward, torch.autograd.backward, GradScaler.scale, GradScaler.step) == own
    assert "__call__" not in vars(type(model))
    assert hooks_of(optimizer) == 0


@pytest.mark.parametrize("is_faulty", [False, True])
def test_a_watch_that_has_ended_holds_no_model(is_faulty: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = parts()
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(4, 6)).square().mean().backward()
            optimizer.step()
        if is_faulty:
            monkeypatch.setattr("gradtrace.monitor.optimizer_step.learning_rate_of", lambda *_: 1 / 0)
            model(torch.randn(4, 6)).square().mean().backward()
            with pytest.warns(RuntimeWarning, match="watching ended at step 3"):
                optimizer.step()
    gone = weakref.ref(model), weakref.ref(optimizer)
    del model, optimizer
    gc.collect()
    assert [one() for one in gone] == [None, None]
    assert watch.run.steps.num_steps == 3


def test_a_forked_process_is_not_watched_and_sends_nothing(tmp_path: Path) -> None:
    class ToFile(Sink):
        def scalars(self, step: int, values: Mapping[str, float]) -> None:
            self.write(f"{step}")

        def close(self) -> None:
            self.write("closed")

        def write(self, what: str) -> None:
            with (tmp_path / "sent").open("a") as file:
                file.write(f"{os.getpid() == parent} {what}\n")

    def train() -> None:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(4, 6)).square().mean().backward()
            optimizer.step()

    parent = os.getpid()
    model, optimizer = parts()
    own = torch.autograd.backward
    with gradtrace.watch(model, optimizer, budget=10.0, sinks=[ToFile()]) as watch:
        train()
        child = os.fork()
        if not child:
            code = 1
            try:
                if torch.autograd.backward is own and not hooks_of(optimizer) and "__call__" not in vars(type(model)):
                    model(torch.randn(4, 6)).square().mean().item()  # no backward: its threads are the parent's
                    optimizer.step()
                    watch.step()
                    watch.close()
                    code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        train()
    assert watch.run.steps.num_steps == 6
    sent = (tmp_path / "sent").read_text().splitlines()
    assert {line.split()[0] for line in sent} == {"True"}
    assert sent[-1] == "True closed"


class Named(nn.Linear):
    """Of a module, so that it can be pickled."""


def copied(value: Any) -> Any:
    """As cloudpickle does it to the functions of a class of ``__main__``: by value, with all that they hold."""
    if not isinstance(value, FunctionType) or not value.__closure__:
        return pickle.loads(pickle.dumps(value))
    cells = tuple(CellType(copied(cell.cell_contents)) for cell in value.__closure__)
    return FunctionType(value.__code__, value.__globals__, closure=cells)


def test_a_class_may_be_pickled_by_value_while_its_calls_are_seen() -> None:
    model = Named(6, 2)
    x = torch.randn(4, 6)
    with gradtrace.watch(model, budget=10.0) as watch:
        call = copied(vars(Named)["__call__"])
        assert call(model, x).equal(model(x))
        watch.step()
    assert call(model, x).equal(model(x))
    assert "__call__" not in vars(Named)
