"""Models, formats and callers that nobody thinks of are watched, and get the numbers that they would get without us."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import io
import math
import weakref
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist
from tests.dynamo import needs_result
from tests.monitor.test_manners import parts
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.overrides import has_torch_function

import gradtrace
from gradtrace.checkup.trial import learning_rate_of
from gradtrace.monitor.statistics.norms import norms
from gradtrace.monitor.statistics.updates import Updates
from gradtrace.monitor.watched import Watched
from gradtrace.records.run import EventKind
from gradtrace.tape.dataflow import tensors_in

if TYPE_CHECKING:
    pass


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


def squared_error(y: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A function of one's own: torch 2.6 compiles none of torch's."""
    return nn.functional.mse_loss(y, target)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.filterwarnings("ignore:torch.compile with fullgraph=True:UserWarning")  # torch 2.12 under a stance
@pytest.mark.parametrize("where", ["in the model", pytest.param("after the model", marks=needs_result)])
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
                loss_fn = torch.compile(squared_error, backend="eager", fullgraph=True)
            loss = loss_fn(y, torch.zeros(4, 2)) if loss_fn is not None else y.square().mean()
            loss.backward()
            optimizer.step()
    assert torch.compile is before
    assert watch.run.steps.num_steps == 3
    assert watch.run.notes == ()
    assert watch.run.samples == (1, 2)  # in the first step the compiler came in between


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_norms_are_float32_whatever_the_default_is(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradtrace.monitor.statistics.updates.MIN_COPIED_BYTES", 4)  # a part at a time
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
    assert learning_rate_of([optimizer]) == 0.5
    optimizer.param_groups[1]["lr"] = None
    assert math.isnan(learning_rate_of([optimizer]))


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


def test_a_replay_waits_for_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    gathered = [0]
    monkeypatch.setattr(dist, "all_gather", begun := Mock(wraps=dist.all_gather))

    class Gathering(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = super().forward(x)
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
    assert (begun.call_count, gathered) == (4, [3])
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
