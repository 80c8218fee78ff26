"""A watch keeps out of the way: what the user calls gets what the user gave, whatever else is going on."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import io
import math
import os
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import CellType, FunctionType
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.amp.grad_scaler import GradScaler
from torch.overrides import has_torch_function
from torch.utils.checkpoint import checkpoint

import gradtrace
from gradtrace.errors import InputError
from gradtrace.monitor.norms import norms
from gradtrace.monitor.sinks.sink import Sink
from gradtrace.monitor.updates import Updates
from gradtrace.monitor.watched import Watched
from gradtrace.records.run import EventKind, Scalar
from gradtrace.records.vocabulary import Symptom
from gradtrace.tape.dataflow import tensors_in

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def parts() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def hooks_of(optimizer: torch.optim.Optimizer) -> int:
    return len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)  # type: ignore[attr-defined]


def test_a_generator_of_losses_is_read_once_and_by_torch() -> None:
    model, optimizer = parts()
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for _ in range(3):
            losses = [model(torch.randn(4, 6)).square().mean() for _ in range(2)]
            torch.autograd.backward(loss for loss in losses)
            assert all(p.grad is not None for p in model.parameters())
            optimizer.step()
    assert watch.run.notes == ()


def test_a_scaler_hands_on_what_it_is_given_and_other_optimizers_are_none_of_ours() -> None:
    class Scaled(torch.optim.SGD):
        def step(self, closure: Any = None, *, factor: int = 1) -> None:  # type: ignore[override]
            factors.append(factor)

    factors: list[int] = []
    model, other = nn.Linear(4, 2), nn.Linear(4, 2)
    optimizers = [Scaled(m.parameters(), lr=0.1) for m in (model, other)]
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with gradtrace.watch(model, optimizers[0], budget=10.0) as watch:
        for _ in range(3):
            scaler.scale(model(torch.randn(3, 4)).sum() + other(torch.randn(3, 4)).sum()).backward()
            for optimizer in optimizers:
                scaler.step(optimizer, factor=5)
            scaler.update()
    assert factors == [5] * 6
    assert not [event for event in watch.run.events if event.kind is EventKind.SKIPPED]
    assert watch.run.steps.num_steps == 3


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_function_around_an_eager_model_compiles_as_it_would() -> None:
    model, optimizer = parts()
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:

        @torch.compile(fullgraph=True, backend="eager")
        def loss_of(x: torch.Tensor) -> torch.Tensor:
            return model(x).square().mean()

        for _ in range(3):
            optimizer.zero_grad()
            loss_of(torch.randn(4, 6)).backward()
            optimizer.step()
    assert watch.run.steps.num_steps == 3


def test_a_fault_within_an_optimizer_s_hook_leaves_the_hooks_behind_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = parts()
    watch = gradtrace.watch(model, optimizer, budget=10.0).start()
    called: list[int] = []
    optimizer.register_step_pre_hook(lambda *_: called.append(1))
    monkeypatch.setattr("gradtrace.monitor.tally.Tally.take", lambda *_: 1 / 0)
    model(torch.randn(4, 6)).sum().backward()
    with pytest.warns(RuntimeWarning, match="watching ended"):
        optimizer.step()
    optimizer.step()
    watch.close()
    assert called == [1, 1]
    assert hooks_of(optimizer) == 1


def test_a_parameter_that_is_an_output_keeps_no_hook() -> None:
    class Policy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.log_std = nn.Linear(4, 2), nn.Parameter(torch.zeros(2))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.mean(x), self.log_std

    model = Policy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradtrace.watch(model, optimizer, budget=10.0):
        for _ in range(4):
            mean, log_std = model(torch.randn(3, 4))
            (mean.sum() + log_std.sum()).backward()
            optimizer.step()
            assert not model.log_std._backward_hooks


def test_a_backward_pass_that_fails_leaves_nothing_of_its_tape() -> None:
    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            raise MemoryError("out of memory")

    model, optimizer = parts()
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        output = model(torch.randn(4, 6))
        gone = weakref.ref(output)
        with pytest.raises(MemoryError):
            Failing.apply(output).sum().backward()
        del output
        gc.collect()
        assert gone() is None
        model(torch.randn(2, 6)).sum().backward()
        optimizer.step()
    assert watch.run.notes == ()


def test_masked_logits_are_not_where_a_nan_of_the_loss_was_born() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x).masked_fill(torch.tensor([False, False, True]), -torch.inf)

    torch.manual_seed(0)
    model = Masked()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for number in range(4):
            optimizer.zero_grad()
            value = model(torch.randn(5, 4)).softmax(-1).square().mean()
            (value.log() if number < 3 else (value - 10.0).log()).backward()
            optimizer.step()
    finding = watch.diagnosis.findings[0]
    assert finding.symptom is Symptom.NONFINITE
    assert finding.where == ("loss",)
    assert "logarithm" in finding.message


def test_a_nan_in_fewer_backward_passes_than_usual_stops_all_the_same() -> None:
    model, optimizer = parts()

    def train() -> None:
        for number, num_parts in enumerate((4, 4, 2)):
            optimizer.zero_grad()
            for _ in range(num_parts):
                h = model(torch.randn(4, 6))
                extra = (h * 0.0).square().sum().sqrt() if number == 2 else 0.0
                (h.square().mean() + extra).backward()
            optimizer.step()

    watch = gradtrace.watch(model, optimizer, budget=10.0, on_nonfinite="stop").start()
    with pytest.raises(gradtrace.errors.NonfiniteError):
        train()
    watch.close()
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_a_loop_that_never_ends_a_step_is_traced_once() -> None:
    model, _ = parts()
    with gradtrace.watch(model, budget=10.0) as watch:
        for _ in range(30):
            model(torch.randn(4, 6)).square().mean().backward()
    assert watch.run.samples == (0,)


def test_two_watches_may_end_in_the_order_they_began_in() -> None:
    model, optimizer = parts()
    own = torch.Tensor.backward, torch.autograd.backward, GradScaler.scale, GradScaler.step
    first = gradtrace.watch(model, optimizer).start()
    second = gradtrace.watch(model, optimizer).start()
    for number in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 6)).square().mean().backward()
        optimizer.step()
        if number == 1:
            first.close()
    second.close()
    assert (len(first.run.steps.first), len(second.run.steps.first)) == (2, 3)
    assert (torch.Tensor.backward, torch.autograd.backward, GradScaler.scale, GradScaler.step) == own
    assert "__call__" not in vars(type(model))


class ScalerOfItsOwn(GradScaler):
    """As the one of sharded models, it has methods of its own for what the base does."""

    def scale(self, outputs: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        if self._scale is None:
            self._lazy_init_scale_growth_tracker(outputs.device)
        return outputs * self._scale

    def step(self, optimizer: torch.optim.Optimizer) -> Any:
        return super().step(optimizer)


def test_a_scaler_of_a_derived_class_is_seen_and_its_skips_told_once() -> None:
    model, optimizer = parts()
    scaler = ScalerOfItsOwn("cpu", init_scale=1024.0)
    with gradtrace.watch(model, optimizer) as watch:
        for number in range(4):
            optimizer.zero_grad()
            factor = math.inf if number == 2 else 1.0
            scaler.scale(model(torch.ones(4, 6)).square().mean() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
    assert watch.diagnosis.healthy
    assert [event.step for event in watch.run.events if event.kind is EventKind.SKIPPED] == [2]
    assert watch.run.steps.scalars_high[0, list(Scalar).index(Scalar.LOSS_SCALE)] == 1024.0


def test_a_lazy_module_is_one_clear_sentence() -> None:
    with pytest.raises(InputError, match=r"0\.weight has no shape yet"):
        gradtrace.watch(nn.Sequential(nn.LazyLinear(3)))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_parts_are_watched_and_not_traced() -> None:
    model = nn.Sequential(nn.Linear(6, 8), torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.ReLU())))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(4, 6)).square().mean().backward()
            optimizer.step()
    assert watch.run.steps.num_steps == 5
    assert watch.run.notes == ("parts are scripted (torch.jit): no whole traces are taken",)


def test_forward_in_a_thread_of_its_own_leaves_no_mode_behind() -> None:
    model, optimizer = parts()
    modes: list[Any] = []

    def forward() -> torch.Tensor:
        loss = model(torch.randn(4, 6)).square().mean()
        modes.append(torch.overrides._get_current_function_mode_stack())
        return loss

    with gradtrace.watch(model, optimizer, budget=10.0, every=1) as watch, ThreadPoolExecutor(1) as pool:
        for _ in range(4):
            optimizer.zero_grad()
            pool.submit(forward).result().backward()
            optimizer.step()
    assert modes == [[]] * 4
    assert watch.run.steps.num_steps == 4
    assert watch.run.notes == ()


def test_a_training_in_a_thread_of_its_own_is_traced() -> None:
    model, optimizer = parts()

    def train() -> None:
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(4, 6)).square().mean().backward()
            optimizer.step()

    with gradtrace.watch(model, optimizer, budget=10.0, every=1) as watch, ThreadPoolExecutor(1) as pool:
        pool.submit(train).result()
    assert [event.step for event in watch.run.events if event.kind is EventKind.SAMPLE] == [1, 2, 3]


def test_a_checkpointed_loss_is_not_run_again_for_our_sake() -> None:
    model, optimizer = parts()
    counts: list[int] = []

    def loss_fn(y: torch.Tensor) -> torch.Tensor:
        counts.append(1)
        return (y.square().mean() + 1.0).sqrt().log()

    def train() -> int:
        counts.clear()
        for _ in range(8):
            optimizer.zero_grad()
            checkpoint(loss_fn, model(torch.randn(4, 6)), use_reentrant=False).backward()
            optimizer.step()
        return len(counts)

    bare = train()
    with gradtrace.watch(model, optimizer, budget=10.0):
        assert train() == bare


def test_backward_from_an_edge_of_the_tape_is_torch_s_business() -> None:
    model, optimizer = parts()
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for number in range(3):
            optimizer.zero_grad()
            edge = torch.autograd.graph.get_gradient_edge(model(torch.randn(4, 6)).square().mean())
            torch.autograd.backward(edge if number else [edge], torch.ones(()))
            assert all(p.grad is not None for p in model.parameters())
            optimizer.step()
    assert watch.run.notes == ()
    assert watch.run.steps.num_steps == 3


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
    class Closed(torch.optim.SGD):
        def register_step_post_hook(self, hook: Any) -> Any:
            raise NotImplementedError

    class ReadOnly(type):
        def __setattr__(cls, name: str, value: Any) -> None:
            raise AttributeError(name)

    class Fixed(nn.Linear, metaclass=ReadOnly):
        pass

    model, _ = parts()
    optimizer = Closed(model.parameters(), lr=0.1)
    own = torch.Tensor.backward, torch.autograd.backward, GradScaler.scale, GradScaler.step
    with pytest.raises(NotImplementedError):
        gradtrace.watch(model, optimizer).start()
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
            monkeypatch.setattr("gradtrace.monitor.watched.Watched.learning_rate", lambda *_: 1 / 0)
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


def frozen_encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 2).requires_grad_(False).eval()


class OnFrozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = frozen_encoder(), nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padding = torch.zeros(4, 7, dtype=torch.bool)
        padding[:, 5:] = True
        y: torch.Tensor = self.head(self.encoder(x, src_key_padding_mask=padding).mean(1))
        return y


def losses_on_frozen(*, watched: bool) -> tuple[list[float], Any]:
    torch.manual_seed(0)
    model, teacher = OnFrozen(), frozen_encoder().requires_grad_(True)
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)  # type: ignore[arg-type]
    losses = []
    with gradtrace.watch(model, optimizer, budget=10.0, every=1) if watched else contextlib.nullcontext() as watch:
        for _ in range(3):
            x = torch.randn(4, 7, 16)
            y = model(x)
            with torch.no_grad():
                target = teacher(x).mean((1, 2))
            optimizer.zero_grad()
            loss = (y[:, 0] - target).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses, watch


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype stage:UserWarning")
def test_torch_takes_its_fast_path_through_attention_as_it_would_without_us() -> None:
    losses, watch = losses_on_frozen(watched=True)
    assert losses == losses_on_frozen(watched=False)[0]
    assert watch.run.notes == ()
    trace = watch.diagnosis.traces[-1]
    note = "frozen, in eval mode: encoder.layers.0 and 1 more not looked into, so that torch takes its fast path"
    assert trace.coverage.notes == (note,)
    assert all(parameter.module_called for parameter in trace.parameters)
    assert {op.site.module for op in trace.ops} == {"", "head", None}
    assert torch.overrides.has_torch_function is has_torch_function


def test_gradients_with_a_tape_of_their_own_hold_no_output() -> None:
    model, optimizer = parts()
    outputs: list[weakref.ref[torch.Tensor]] = []
    with gradtrace.watch(model, optimizer, budget=1e-9):
        for _ in range(3):
            for _ in range(12):  # more than are held on to
                y = model(torch.randn(4, 6))
                outputs.append(weakref.ref(y))
                torch.autograd.grad(y.pow(3).mean(), list(model.parameters()), create_graph=True)
            y.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    del y
    gc.collect()
    assert not any(output() is not None for output in outputs)


def test_an_output_carries_no_hook_and_is_saved_without_a_word() -> None:
    model, optimizer = parts()
    with gradtrace.watch(model, optimizer, budget=1e-9):
        for _ in range(2):
            y = model(torch.randn(4, 6))
            torch.save(y, io.BytesIO())  # warns of hooks
            y.square().mean().backward()
            optimizer.step()
    assert y._backward_hooks is None


def test_the_batch_of_a_forward_pass_that_failed_is_let_go() -> None:
    class Full(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 4:
                raise MemoryError
            return super().forward(x)

    model = Full(6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradtrace.watch(model, optimizer, budget=1e-9):
        model(torch.randn(4, 6)).sum().backward()
        optimizer.step()
        batch = torch.randn(100, 6)
        seen = weakref.ref(batch)
        with pytest.raises(MemoryError):
            model(batch)
        del batch
        gc.collect()
        assert seen() is None


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("where", ["in the model", "after the model"])
def test_what_is_compiled_in_the_middle_of_a_traced_step_compiles_as_it_would_without_us(where: str) -> None:
    class Lazy(nn.Linear):
        scaled: Any = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.scaled is None and where == "in the model":
                self.scaled = torch.compile(lambda h: torch.tanh(h) * 2, backend="eager", fullgraph=True)
            y = super().forward(x)
            return self.scaled(y) if self.scaled is not None else y

    model = Lazy(6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before, loss_fn = torch.compile, None
    with gradtrace.watch(model, optimizer, budget=10.0, every=1) as watch:
        for _ in range(3):
            y = model(torch.randn(4, 6))
            if loss_fn is None and where == "after the model":
                loss_fn = torch.compile(nn.functional.mse_loss, backend="eager", fullgraph=True)
            loss = loss_fn(y, torch.zeros(4, 2)) if loss_fn is not None else y.square().mean()
            loss.backward()
            optimizer.step()
    assert torch.compile is before
    assert watch.run.steps.num_steps == 3
    assert watch.run.notes == ("functions are compiled: no whole traces are taken, they would compile again",)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_norms_are_float32_whatever_the_default_is(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradtrace.monitor.updates.MIN_COPIED_BYTES", 4)  # a part at a time
    model, _ = parts()
    torch.set_default_dtype(dtype)
    try:
        found = norms([torch.tensor([3.0, 4.0], dtype=torch.float32), None])
        weights = Updates(Watched(model, ())).before()
    finally:
        torch.set_default_dtype(torch.float32)
    assert (found.dtype, float(found[0]), math.isnan(found[1])) == (torch.float32, 5.0, True)
    assert weights.dtype is torch.float32
    assert torch.isfinite(weights).tolist() == [True, False, False, False]
    assert float(weights[0]) == pytest.approx(model[0].weight.norm().item())  # type: ignore[index]


def test_a_model_without_parameters_is_watched_for_its_loss() -> None:
    model, scale = nn.Sequential(nn.ReLU()), nn.Parameter(torch.ones(6))
    optimizer = torch.optim.SGD([scale], lr=0.1)
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for _ in range(3):
            (model(torch.randn(4, 6)) * scale).square().mean().backward()
            optimizer.step()
    assert watch.run.steps.num_steps == 3
    assert watch.run.notes == ()


def test_a_function_is_a_sink() -> None:
    got: list[tuple[int, dict[str, float]]] = []
    model, optimizer = parts()
    with gradtrace.watch(model, optimizer, budget=10.0, sinks=[lambda step, values: got.append((step, values))]):
        for _ in range(3):
            model(torch.randn(4, 6)).square().mean().backward()
            optimizer.step()
    assert [step for step, values in got if "gradtrace/loss" in values] == [0, 1, 2]


def test_an_optimizer_that_finds_its_own_learning_rate_is_watched() -> None:
    model, _ = parts()
    optimizer = torch.optim.SGD([{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.5}])  # type: ignore[index]
    optimizer.param_groups[0]["lr"] = None  # as of transformers' Adafactor
    assert gradtrace.watch(model, optimizer).run.header.optimizers[0].learning_rate == 0.5
    assert Watched(model, optimizer).learning_rate() == 0.5
    optimizer.param_groups[1]["lr"] = None
    assert math.isnan(Watched(model, optimizer).learning_rate())


def test_arguments_that_know_their_parent_are_gone_through_once() -> None:
    @dataclasses.dataclass
    class Branch:
        x: torch.Tensor
        parent: Any = None
        children: list[Any] = dataclasses.field(default_factory=list)

    root = Branch(torch.randn(6))
    root.children = [Branch(torch.randn(6), root) for _ in range(2)]
    assert [id(t) for t in tensors_in((root,))] == [id(b.x) for b in (root, *root.children)]
    x = torch.ones(2)
    assert len(tensors_in((x, [x, x]))) == 3


def test_a_replay_waits_for_no_other_process() -> None:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    begun, gathered = [0], [0]

    class Gathering(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = super().forward(x)
            begun[0] += 1
            dist.all_gather([torch.zeros_like(h) for _ in range(2)], h.detach())
            gathered[0] += 1
            return h

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        model = Gathering(6, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with gradtrace.watch(model, optimizer, budget=10.0) as watch:
            for scale in (1.0, math.nan, 1.0):
                (model(torch.randn(4, 6)).square().mean() * scale).backward()
                optimizer.step()
    finally:
        dist.destroy_process_group()
    assert (begun, gathered) == ([4], [3])
    assert watch.run.steps.num_steps == 3


def test_fake_tensors_in_the_middle_of_a_traced_step_are_not_measured() -> None:
    model, optimizer = parts()
    with gradtrace.watch(model, optimizer, budget=10.0, every=1) as watch:
        for _ in range(3):
            y = model(torch.randn(4, 6))
            with FakeTensorMode(allow_non_fake_inputs=True):  # as torch.export does
                model(torch.randn(4, 6))
            y.square().mean().backward()
            optimizer.step()
    assert watch.run.steps.num_steps == 3
    assert watch.run.notes == ()
    assert [event.step for event in watch.run.events if event.kind is EventKind.SAMPLE] == [0, 1, 2]


def test_no_tape_of_another_model_is_held_where_nothing_is_trained() -> None:
    generator, judge = nn.Linear(3, 6), nn.Linear(6, 1)
    optimizer = torch.optim.SGD(generator.parameters(), lr=0.1)
    hidden: list[weakref.ref[torch.Tensor]] = []

    def pass_once() -> torch.Tensor:
        h = generator(torch.randn(4, 3)).exp()
        hidden.append(weakref.ref(h))
        return judge(h).mean()

    with gradtrace.watch({"generator": generator, "judge": judge}, optimizer, budget=1e-9):
        pass_once().backward()
        optimizer.step()
        for _ in range(6):
            pass_once().item()  # an evaluation without no_grad
        gc.collect()
        assert not any(h() is not None for h in hidden)
