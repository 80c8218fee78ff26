"""A watched training goes as it would without, and what is seen of it is true."""

from __future__ import annotations

import copy
import gc
import math
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.dynamo import needs_result
from torch import nn
from torch.amp.grad_scaler import GradScaler

import gradtrace
from gradtrace.errors import InputError, NonfiniteError
from gradtrace.records.run import EventKind, Scalar, Series
from gradtrace.records.vocabulary import Cause, Symptom
from gradtrace.runs.reader import read_run

from .loops import LOOPS, Parts, mlp

NUM_STEPS = 200


def train(parts: Parts, num_steps: int, **options: Any) -> tuple[list[float], list[torch.Tensor], Any]:
    models, optimizers, step = parts
    watch = gradtrace.watch(models, optimizers, **options).start() if options else None
    losses = [step(number) for number in range(num_steps)]
    if watch is not None:
        watch.close()
    tensors = [t.detach().clone() for model in models.values() for t in (*model.parameters(), *model.buffers())]
    return losses, [*tensors, torch.get_rng_state()], watch


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")  # LBFGS of torch 2.8
@pytest.mark.parametrize("name", LOOPS)
def test_training_is_bit_for_bit_the_same(name: str) -> None:
    results = []
    for options in ({}, {"budget": 0.5, "every": 7}):
        torch.manual_seed(0)
        results.append(train(LOOPS[name](), NUM_STEPS, **options))
    (losses, tensors, _), (watched, seen, watch) = results
    assert [x for x in losses if not math.isnan(x)] == [x for x in watched if not math.isnan(x)]
    assert all(torch.equal(a, b) for a, b in zip(tensors, seen, strict=True))
    assert watch.run.notes == ()
    assert watch.diagnosis.traces
    assert int(watch.run.steps.count.sum()) >= NUM_STEPS - 1


def test_nothing_is_left_behind() -> None:
    parts = mlp()
    own = torch.Tensor.backward, torch.autograd.backward, GradScaler.scale, GradScaler.step
    (model,) = parts[0].values()
    train(parts, 5, budget=0.5)
    assert (torch.Tensor.backward, torch.autograd.backward, GradScaler.scale, GradScaler.step) == own
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not parts[1][0]._optimizer_step_post_hooks
    assert not parts[1][0]._optimizer_step_pre_hooks
    copy.deepcopy(model)


def test_the_numbers_of_a_step_are_those_of_plain_torch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = []
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for _ in range(9):
            x, y = torch.randn(16, 8), torch.randint(0, 4, (16,))
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            gradients = [p.grad.norm().item() for p in model.parameters()]
            total = nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            before = [p.detach().clone() for p in model.parameters()]
            optimizer.step()
            moved = [((p - b).norm() / b.norm()).item() for p, b in zip(model.parameters(), before, strict=True)]
            expected.append((loss.item(), float(total), gradients, moved))
    steps = watch.run.steps
    assert steps.scalar(Scalar.LOSS)[0] == pytest.approx([e[0] for e in expected], rel=1e-6)
    assert steps.scalar(Scalar.GRADIENT_NORM)[0] == pytest.approx([e[1] for e in expected], rel=1e-5)
    assert steps.scalar(Scalar.CLIPPED_NORM)[0] == pytest.approx([0.05] * 9, rel=1e-4)
    assert steps.scalar(Scalar.LEARNING_RATE)[1] == pytest.approx([0.1] * 9)
    np.testing.assert_allclose(steps.series(Series.GRADIENT_NORM)[0], [e[2] for e in expected], rtol=1e-5)
    for step in (0, 1, 2, 4, 8):
        np.testing.assert_allclose(steps.series(Series.UPDATE_RATIO)[0][step], expected[step][3], rtol=1e-4)


def test_a_scaler_s_scale_is_taken_out_and_its_skips_are_told() -> None:
    torch.manual_seed(0)
    _, _, watch = train(LOOPS["scaled"](), 30, budget=10.0)
    skipped = [event.step for event in watch.run.events if event.kind is EventKind.SKIPPED]
    assert skipped
    assert max(skipped) < 10
    assert watch.run.steps.scalar(Scalar.LOSS)[1][10:].max() < 10
    assert not watch.run.steps.nonfinite.any()
    assert watch.diagnosis.healthy
    norms = watch.run.steps.scalar(Scalar.GRADIENT_NORM)[0][12:]
    assert 0.01 < np.nanmedian(norms) < 10


def test_a_scheduler_and_averaged_weights_in_between_change_no_number() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    averaged, expected = copy.deepcopy(model.state_dict()), []
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(16, 8)).square().mean().backward()
            before = model.weight.detach().clone()
            optimizer.step()
            expected.append(float((model.weight.detach() - before).norm() / before.norm()))
            scheduler.step()
            own = copy.deepcopy(model.state_dict())
            model.load_state_dict(averaged)  # validation with other weights
            with torch.no_grad():
                model(torch.randn(16, 8))
            model.load_state_dict(own)
    ratios = watch.run.steps.series(Series.UPDATE_RATIO)[0][:, 0]
    for step in (0, 1, 2, 4):
        assert ratios[step] == pytest.approx(expected[step], rel=1e-4)
    assert watch.run.steps.scalar(Scalar.LEARNING_RATE)[0] == pytest.approx([0.1, 0.05, 0.025, 0.0125, 0.00625])


def test_a_loop_without_an_optimizer_tells_its_steps() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 4)
    with gradtrace.watch(model) as watch:
        for _ in range(5):
            loss = model(torch.randn(16, 8)).square().mean()
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter -= 0.1 * parameter.grad
                    parameter.grad = None
            watch.step()
    assert watch.run.steps.first.tolist() == [0, 1, 2, 3, 4]
    assert np.isfinite(watch.run.steps.series(Series.GRADIENT_NORM)[0]).all()
    assert np.isfinite(watch.run.steps.scalar(Scalar.LOSS)[0]).all()


def test_the_training_of_another_model_is_none_of_its_business() -> None:
    torch.manual_seed(0)
    mine, other = nn.Linear(8, 4), nn.Linear(8, 4)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (mine, other)]
    with gradtrace.watch(mine, optimizers[0]) as watch:
        for _ in range(4):
            for model, optimizer, factor in zip((mine, other), optimizers, (1.0, 1e6), strict=True):
                optimizer.zero_grad()
                (factor * model(torch.randn(16, 8)).square().mean()).backward()
                optimizer.step()
    assert len(watch.run.steps.first) == 4
    assert (watch.run.steps.scalar(Scalar.LOSS)[1] < 10).all()


def test_several_optimizers_make_one_step() -> None:
    torch.manual_seed(0)
    _, _, watch = train(LOOPS["gan"](), 50, budget=10.0)
    assert 50 <= len(watch.run.steps.first) <= 52
    names = [parameter.name for parameter in watch.run.header.parameters]
    assert names[:2] == ["generator.weight", "generator.bias"]
    assert np.isfinite(watch.run.steps.series(Series.GRADIENT_NORM)[0][5:]).all()


class Wrapped(torch.optim.Optimizer):
    """As accelerate's: an optimizer by name, which hands on to another and fires no hooks of its own."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


@pytest.mark.parametrize("given", [lambda one: one, lambda one: [one]], ids=["alone", "in a list"])
def test_an_optimizer_in_a_wrapper_is_the_one_that_steps(given: Any) -> None:
    model = nn.Linear(4, 2)
    optimizer = Wrapped(torch.optim.SGD(model.parameters(), lr=0.1))
    with gradtrace.watch(model, given(optimizer)) as watch:
        for _ in range(3):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
    assert watch.run.steps.first.tolist() == [0, 1, 2]
    assert watch.run.header.optimizers[0].kind == "SGD"


def test_a_whole_trace_of_a_training_step_agrees_with_one_of_our_own() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Sigmoid(), nn.Linear(32, 4))
    x, y = torch.randn(16, 8), torch.randint(0, 4, (16,))
    expected = gradtrace.trace(model, lambda model, x: F.cross_entropy(model(x), y), x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradtrace.watch(model, optimizer) as watch:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    (found,) = watch.diagnosis.traces
    assert found.loss == expected.loss
    assert [op.name for op in found.ops] == [op.name for op in expected.ops]
    assert [op.received for op in found.ops] == [op.received for op in expected.ops]
    for op, like in zip(found.ops, expected.ops, strict=True):
        assert (op.activation is None) is (like.activation is None)
        if op.activation is not None and like.activation is not None:  # NaN is NaN
            np.testing.assert_equal(asdict(op.activation), asdict(like.activation))
    assert [p.gradient for p in found.parameters] == [p.gradient for p in expected.parameters]


class Unsafe(nn.Module):
    """Brings a NaN or Inf where it is told to, when the input is all zeros."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        bad = not bool(x.any())
        if self.kind == "forward" and bad:
            h = h * torch.log(h.abs() * 0.0)  # -inf, and 0 * inf
        if self.kind == "backward" and bad:
            h = h + (h * 0.0).square().sum(-1, keepdim=True).sqrt()
        return self.second(h)


@pytest.mark.parametrize("kind", ["forward", "backward", "loss"])
def test_the_birthplace_of_a_nan(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Unsafe(kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradtrace.watch(model, optimizer, budget=10.0, path=tmp_path / "run.db") as watch:
        for number in range(8):
            optimizer.zero_grad()
            loss = model(torch.randn(4, 8) * (number != 6)).square().mean()
            if kind == "loss" and number == 6:
                loss = torch.log(loss * 0.0)
            loss.backward()
            optimizer.step()
    finding = watch.diagnosis.findings[0]
    assert (finding.symptom, finding.cause, finding.step) == (Symptom.NONFINITE, Cause.UNSAFE_OP, 6)
    words = {"forward": ("log", "forward"), "backward": ("SqrtBackward0", "backward"), "loss": ("log", "in the loss")}
    assert words[kind][0].lower().removesuffix("backward0") in finding.message.lower()
    assert finding.where[0] == ("loss" if kind == "loss" else "")
    events = [event for event in read_run(tmp_path / "run.db").events if event.kind is EventKind.NONFINITE]
    assert [event.step for event in events] == [6]


def test_stop_ends_the_training_and_skip_leaves_steps_out() -> None:
    for kind in ("stop", "skip"):
        torch.manual_seed(0)
        model = Unsafe("forward")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        watch = gradtrace.watch(model, optimizer, on_nonfinite=kind, budget=10.0).start()

        def loop(model: nn.Module = model, optimizer: Any = optimizer) -> None:
            for number in range(6):
                optimizer.zero_grad()
                model(torch.randn(4, 8) * (number != 3)).square().mean().backward()
                optimizer.step()

        if kind == "stop":
            with pytest.raises(NonfiniteError, match="At step 3"):
                loop()
        else:
            loop()
            assert all(bool(p.isfinite().all()) for p in model.parameters())
        watch.close()


def test_a_fault_of_ours_ends_the_watch_and_not_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    models, optimizers, step = mlp()
    watch = gradtrace.watch(models, optimizers).start()
    monkeypatch.setattr("gradtrace.monitor.statistics.gradients.norms", lambda _: 1 / 0)
    with pytest.warns(RuntimeWarning, match="watching ended at step 0 .*ZeroDivisionError.*the training goes on"):
        step(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(1, 5):
            step(number)
    (model,) = models.values()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    watch.close()


def test_a_rate_that_is_too_high_is_told_with_its_onset() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for number in range(60):
            optimizer.param_groups[0]["lr"] = 3.0 if number >= 40 else 1e-3
            optimizer.zero_grad()
            x = torch.randn(64, 8)
            (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
            optimizer.step()
    finding = watch.diagnosis.findings[0]
    assert finding.cause is Cause.LEARNING_RATE
    assert finding.step is not None
    assert 40 <= finding.step <= 45


def test_a_weight_of_zeros_has_no_finite_update_ratio_and_is_healthy() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4))
    nn.init.zeros_(model[0].bias)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with gradtrace.watch(model, optimizer) as watch:
        for _ in range(80):
            x = torch.randn(32, 8)
            optimizer.zero_grad()
            F.cross_entropy(model(x), x[:, :4].argmax(1)).backward()
            optimizer.step()
    assert watch.diagnosis.findings == ()
    assert not watch.run.steps.nonfinite.any()


@pytest.mark.long
def test_memory_stays_flat_over_20_000_steps() -> None:
    import resource

    torch.manual_seed(0)
    models, optimizers, step = mlp()
    peaks = []
    with gradtrace.watch(models, optimizers):
        for number in range(20_000):
            step(number)
            if number in (5_000, 19_999):
                gc.collect()
                peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert peaks[1] - peaks[0] < 20_000  # KiB


def test_bad_input_is_one_sentence() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"must be a torch.nn.Module"):
        gradtrace.watch({"net": 3})
    with pytest.raises(InputError, match=r"must be a torch.optim.Optimizer"):
        gradtrace.watch(model, [model])
    with pytest.raises(InputError, match="on_nonfinite must be one of report, stop, skip"):
        gradtrace.watch(model, on_nonfinite="panic")
    with pytest.raises(InputError, match="budget must be"):
        gradtrace.watch(model, budget=0.0)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own
@pytest.mark.filterwarnings("ignore:torch.compile with fullgraph=True:UserWarning")  # torch 2.12 under a stance
@pytest.mark.parametrize("what", ["model", "in place", "part", "function", pytest.param("loss", marks=needs_result)])
def test_what_is_compiled_goes_the_same_and_is_not_compiled_again(what: str) -> None:
    def compiled(thing: Any) -> Any:
        return torch.compile(thing, fullgraph=True, backend="eager")

    results, frames = [], []
    for is_watched in (False, True):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        torch.manual_seed(0)
        model: Any = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
        parameters, loss_fn = list(model.parameters()), lambda y: y.square().mean()
        match what:
            case "model":
                model = compiled(model)
            case "in place":
                model.compile(backend="eager")
            case "part":
                model[0] = compiled(model[0])
            case "function":
                model[1] = Calling(compiled(torch.tanh))
            case _:
                loss_fn = compiled(loss_fn)
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        watch = gradtrace.watch(model, optimizer, budget=10.0).start() if is_watched else None
        for _ in range(12):
            optimizer.zero_grad()
            loss_fn(model(torch.randn(16, 8))).backward()
            optimizer.step()
        results.append([p.detach().clone() for p in parameters])
        frames.append(dict(torch._dynamo.utils.counters["frames"]))
        if watch is not None:
            watch.close()
            assert watch.run.notes == ()
            assert watch.run.samples
            assert np.isfinite(watch.run.steps.series(Series.GRADIENT_NORM)[0]).all()
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert frames[0] == frames[1]
    torch._dynamo.reset()


class Calling(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def test_contexts_of_the_user_s_may_open_and_close_around_a_traced_step() -> None:
    """The recorder outlives the forward pass: torch's own contexts are entered before it and left after, or between."""
    from torch import overrides

    model = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for number in range(5):
            torch.set_default_device("cpu" if number < 3 else None)
            with torch.device("cpu"), overrides.BaseTorchFunctionMode():
                output = model(torch.randn(16, 8))
            with torch.device("cpu"):
                loss = output.square().mean()
            loss.backward()
            optimizer.step()
    assert overrides._get_current_function_mode_stack() == []
    assert len(watch.run.samples) >= 3
    ops = watch.diagnosis.traces[-1].ops
    assert all(op.site.source for op in ops if op.name != "torch::autograd::AccumulateGrad")


def test_findings_reach_the_file_while_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradtrace.monitor.training.JUDGE_EVERY_S", 0.0)
    torch.manual_seed(0)
    layers = [layer for _ in range(12) for layer in (nn.Linear(16, 16), nn.Sigmoid())]
    model = nn.Sequential(*layers, nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    said: list[str] = []
    with gradtrace.watch(model, optimizer, budget=10.0, path=tmp_path / "run.db"):
        for _ in range(30):
            x = torch.randn(32, 16)
            optimizer.zero_grad()
            F.cross_entropy(model(x), x[:, :4].argmax(1)).backward()
            optimizer.step()
            said += [finding.symptom for finding in read_run(tmp_path / "run.db").findings]
    assert Symptom.VANISHING in said
    (finding,) = [f for f in read_run(tmp_path / "run.db").findings if f.symptom is Symptom.VANISHING]
    assert finding.step == 0  # there from the first step on


@pytest.fixture(autouse=True)
def no_mode_stays_behind() -> Any:
    yield
    assert torch.overrides._get_current_function_mode_stack() == []
