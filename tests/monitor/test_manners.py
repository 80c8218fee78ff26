"""A watch keeps out of the way: what the user calls gets what the user gave, whatever else is going on."""

from __future__ import annotations

import gc
import math
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import optimizer as hooks
from torch.utils.checkpoint import checkpoint

import gradtrace
from gradtrace.errors import InputError
from gradtrace.records.run import EventKind, Scalar
from gradtrace.records.vocabulary import Symptom

if TYPE_CHECKING:
    pass


def parts() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def hooks_of(optimizer: torch.optim.Optimizer) -> int:
    """Those of its own, and those of all."""
    own = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)  # type: ignore[attr-defined]
    return sum(map(len, (*own, hooks._global_optimizer_pre_hooks, hooks._global_optimizer_post_hooks)))


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
    monkeypatch.setattr("gradtrace.monitor.statistics.gradients.Numbers.take", lambda *_: 1 / 0)
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
    assert finding.where == ("loss", "linear")
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
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
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


TELLS_PACKED = hasattr(torch._C._autograd.SavedTensor, "unpack_hook")


@pytest.mark.skipif(not TELLS_PACKED, reason="torch before 2.10 does not say which saved values are packed")
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


TAKES_ONE_EDGE = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 7)


def test_of_a_backward_pass_from_an_edge_of_the_tape_the_gradients_are_known_and_no_trace() -> None:
    model, optimizer = parts()
    norms = []
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for number in range(3):
            optimizer.zero_grad()
            edge = torch.autograd.graph.get_gradient_edge(model(torch.randn(4, 6)).square().mean())
            torch.autograd.backward(edge if number and TAKES_ONE_EDGE else [edge], torch.ones(()))
            norms.append([float(p.grad.norm()) for p in model.parameters() if p.grad is not None])
            optimizer.step()
    (note,) = watch.run.notes
    assert note == "a step was not traced: its backward pass began at an edge of the tape, whose tensor was gone"
    assert watch.traces == ()
    np.testing.assert_allclose(watch.run.steps.series("gradient_norm")[1], norms, rtol=1e-5)
    assert watch.run.steps.num_steps == 3
