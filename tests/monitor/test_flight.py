"""The birthplace of a NaN or Inf, on models and losses of many kinds; and nothing of the search is left in them."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradtrace
from gradtrace.monitor.nonfinite.forward_calls import Call
from gradtrace.monitor.nonfinite.loss_tape import OF_VALUES, SINGULARITIES, suspects
from gradtrace.monitor.nonfinite.replay import replay, stand_ins
from gradtrace.monitor.statistics.transfer import Transfer
from gradtrace.records.vocabulary import Cause, Symptom

BAD_STEP = 5

MARK = 7.0


class Landing:
    """Of numbers from a device that is far behind: they are there when somebody waits for them."""

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        pass


class SlowTransfer(Transfer):
    """Carries from the CPU as if that were such a device."""

    def send(self, what: Any, vectors: Any) -> None:
        super().send(what, vectors)
        self._under_way.append((*self._under_way.pop()[:3], Landing()))


@pytest.fixture(params=["at once", "a step later"], autouse=True)
def looks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host may look at numbers, or would have to wait for them."""
    if request.param != "at once":
        monkeypatch.setattr("gradtrace.monitor.nonfinite.detector.is_ahead", lambda device: True)
        monkeypatch.setattr("gradtrace.monitor.nonfinite.delayed.Transfer", SlowTransfer)


class Net(nn.Module):
    """Does `spoil` to its middle where the batch is marked."""

    def __init__(self, spoil: Callable[[torch.Tensor], torch.Tensor] = lambda h: h) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.drop, self.spoil = nn.Dropout(0.2), spoil

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.drop(torch.tanh(self.first(x))))
        return self.last(self.spoil(h) if bool(x[0, 0] == MARK) else h)


def batch(bad: bool) -> torch.Tensor:
    x = torch.randn(12, 6)
    x[0, 0] = MARK if bad else 0.0
    return x


def run(
    model: nn.Module, loss_fn: Callable[[torch.Tensor, bool], torch.Tensor], data: Any = None, **options: Any
) -> gradtrace.monitor.watch.Watch:
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gradtrace.watch(model, optimizer, budget=10.0, **options) as watch:
        for number in range(BAD_STEP + 2):
            bad = number == BAD_STEP
            x = batch(bad)
            optimizer.zero_grad()
            loss_fn(model(data(x, bad) if data else x), bad).backward()
            optimizer.step()
    return watch


def plain_loss(output: torch.Tensor, bad: bool) -> torch.Tensor:
    return output.square().mean()


def first_of(watch: Any) -> Any:
    finding = watch.diagnosis.findings[0]
    assert finding.symptom is Symptom.NONFINITE
    assert finding.step == BAD_STEP
    return finding


def line_of(function: Callable[..., Any]) -> str:
    return f"test_flight.py:{function.__code__.co_firstlineno}"


LOSSES: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str, str, Cause]] = {
    "log": (lambda y: (y * 0).sum().log(), "log", "forward", Cause.UNSAFE_OP),
    "division": (lambda y: y.sum() / (y * 0).sum(), "division by zero", "forward", Cause.UNSAFE_OP),
    "exp": (lambda y: (y + 100).exp().mean(), "exponential", "forward", Cause.UNSAFE_OP),
    "sqrt": (lambda y: y.mean() + (y * 0).square().sum().sqrt(), "square root", "backward", Cause.UNSAFE_OP),
    "power": (lambda y: y.mean() + (y * 0).square().sum() ** 0.25, "power", "backward", Cause.UNSAFE_OP),
    "ignored": (lambda y: F.cross_entropy(y, torch.full((12,), -100)), "no target", "forward", Cause.UNSAFE_OP),
    "nothing": (lambda y: y[:0].mean(), "mean of no number", "forward", Cause.UNSAFE_OP),
    "target": (lambda y: F.mse_loss(y, y.detach() * math.nan), "the target holds", "forward", Cause.INPUT_SCALE),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_a_number_born_in_the_loss(name: str) -> None:
    spoiled, words, phase, cause = LOSSES[name]
    finding = first_of(run(Net(), lambda y, bad: spoiled(y) if bad else plain_loss(y, bad)))
    assert words in finding.message
    assert f"in the {phase} pass in the loss" in finding.message
    assert finding.cause is cause
    is_of_targets = name in ("ignored", "nothing", "target")
    assert finding.where in ([("loss",)] if is_of_targets else [("loss",), ("loss", "last")])
    assert ("comes from last" in finding.message) is ("last" in finding.where)
    assert "test_flight.py:" in finding.source


def test_the_line_of_a_loss_that_was_traced_before_is_the_op_s_own() -> None:
    def logarithm(y: torch.Tensor, bad: bool) -> torch.Tensor:
        return (y.square().mean() * float(not bad)).log()

    finding = first_of(run(Net(), logarithm))
    assert finding.source.endswith(f"test_flight.py:{logarithm.__code__.co_firstlineno + 1}")


def _divided(h: torch.Tensor) -> torch.Tensor:
    z = h.clone()
    z[:, 2] /= 0.0
    return z


PARTS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str, str]] = {
    "log": (lambda h: torch.log(h * 0), "log", "The loss is NaN"),
    "slice": (_divided, "div", "The loss is NaN"),
    "sqrt": (lambda h: h + (h * 0).square().sum(1, keepdim=True).sqrt(), "sqrt", "The forward pass is finite"),
}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("labels", ["", "net"])
def test_a_number_born_in_the_model(name: str, labels: str) -> None:
    spoil, op, phase = PARTS[name]
    model = Net(spoil)
    if not labels:
        finding = first_of(run(model, plain_loss))
    else:
        finding = first_of(run(nn.Sequential(model, nn.Linear(3, 3)), plain_loss))
    assert op in finding.message
    assert phase in finding.message
    assert "test_flight.py:" in finding.source
    assert finding.where[0] == ("0" if labels else "")  # then what fed it


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_batch_that_is_not_finite_is_told_as_such(value: float) -> None:
    finding = first_of(run(Net(), plain_loss, lambda x, bad: x.masked_fill(x > 1.5, value) if bad else x))
    assert finding.cause is Cause.INPUT_SCALE
    assert "The batch itself" in finding.message
    assert "on every sample" not in finding.message
    assert "clamp_min" in finding.remedies[0].code


def test_a_feature_that_never_varies_and_was_divided_by_its_deviation() -> None:
    def spoilt(x: Tensor, bad: bool) -> Tensor:
        return x.index_fill(1, torch.tensor([2]), math.nan) if bad else x

    finding = first_of(run(Net(), plain_loss, spoilt))
    assert "input 1 of the model, in entry 2 of the last axis (of " in finding.message


@pytest.mark.parametrize("bias", [0.0, -0.5])
def test_a_mask_of_minus_infinities_is_a_healthy_input(bias: float) -> None:
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    mask = torch.full((5, 5), -math.inf).triu(1) + bias  # as of ALiBi
    optimizer = torch.optim.SGD(attention.parameters(), lr=1e-3)
    with gradtrace.watch(attention, optimizer, budget=10.0) as watch:
        for number in range(6):
            optimizer.zero_grad()
            loss = attention(torch.randn(3, 5, 8), mask).square().mean()
            (loss.log() if number < 5 else (loss * 0).log()).backward()
            optimizer.step()
    assert watch.diagnosis.findings[0].where == ("loss", "norm2")


def test_with_two_models_the_one_that_brought_it_is_named_and_the_tape_is_left_whole() -> None:
    torch.manual_seed(0)
    one, two = Net(lambda h: torch.log(h * 0)), nn.Linear(3, 1)
    optimizers = [torch.optim.SGD(model.parameters(), lr=1e-3) for model in (one, two)]
    with gradtrace.watch({"one": one, "two": two}, optimizers, budget=10.0, on_nonfinite="skip") as watch:
        for number in range(8):
            for optimizer in optimizers:
                optimizer.zero_grad()
            two(one(batch(number == BAD_STEP))).square().mean().backward()  # raises if the search freed its graph
            for optimizer in optimizers:
                optimizer.step()
    finding = first_of(watch)
    assert finding.where == ("one", "one.norm")
    assert "log" in finding.message
    assert all(bool(p.isfinite().all()) for model in (one, two) for p in model.parameters())


def test_parts_that_are_called_without_their_whole_are_looked_at() -> None:
    torch.manual_seed(0)
    encoder, head = Net(lambda h: torch.log(h * 0)), nn.Linear(3, 1)
    model = nn.ModuleDict({"encoder": encoder, "heads": nn.ModuleList([head])})
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for number in range(7):
            optimizer.zero_grad()
            head(encoder(batch(number == BAD_STEP))).square().mean().backward()
            optimizer.step()
    finding = first_of(watch)
    assert finding.where == ("encoder", "encoder.norm")
    assert "test_flight.py:" in finding.source


def test_modules_hold_nothing_of_ours_and_can_be_saved_and_copied_meanwhile() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    own = vars(nn.Sequential).get("__call__")
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for _ in range(4):
            loss = plain_loss(model(torch.randn(4, 6)), False)
            file = io.BytesIO()
            torch.save(model, file)  # between forward and backward of a step that is traced
            twin = copy.deepcopy(model)
            loss.backward()
            optimizer.step()
            assert b"gradtrace" not in file.getvalue()
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in twin.modules())
    assert len(watch.run.steps.first) == 4
    assert vars(nn.Sequential).get("__call__") is own


def test_a_replay_gives_the_gradient_that_was_there_and_touches_nothing() -> None:
    torch.manual_seed(0)
    model = Net()
    x = torch.randn(12, 6, requires_grad=True)
    state = torch.get_rng_state()
    output = model(x)
    cotangent = torch.randn_like(output) * 1e30  # (output * cotangent).sum() alone would be near the end of float32
    call = Call("", model, (x,), {}, (x._version,), (False,), (state,), None, x.nbytes, gradients={0: cotangent})
    versions = [b._version for b in model.buffers()]
    fired: list[int] = []
    handles = [p.register_post_accumulate_grad_hook(lambda p: fired.append(1)) for p in model.parameters()]
    trace, _ = replay(call, seeds=True)
    assert not fired
    for handle in handles:
        handle.remove()
    assert [b._version for b in model.buffers()] == versions
    assert trace.loss == 0.0
    expected = torch.autograd.grad(output, list(model.parameters()), cotangent)  # its own tape is whole
    found = {p.name: p.gradient.norm for p in trace.parameters if p.gradient is not None}
    for (name, _), gradient in zip(model.named_parameters(), expected, strict=True):
        assert found[name] == pytest.approx(float(gradient.double().norm()), rel=1e-4, abs=1e18)


def test_stand_ins_serve_a_recurrent_layer_too() -> None:
    model = nn.LSTM(3, 4)
    own = list(model.parameters())
    with stand_ins(model):
        model(torch.randn(2, 1, 3))[0].sum().backward()
        assert all(p.grad is not None for p in model.parameters())
        assert all(p.data_ptr() == q.data_ptr() for p, q in zip(model.parameters(), own, strict=True))
    assert all(p.grad is None for p in own)
    assert all(p is q for p, q in zip(model.parameters(), own, strict=True))


def test_suspects_are_the_ops_behind_the_model_only() -> None:
    x = torch.rand(4, requires_grad=True)
    inside = x.log()
    last = inside.sum()
    loss = (last.square() + 1.0).sqrt()
    from gradtrace.tape.private import node_sequence_nr

    since = node_sequence_nr(last.grad_fn)  # type: ignore[arg-type]
    assert [s.function for s in suspects(loss, since)] == ["sqrt", "pow"]
    assert [s.function for s in suspects(loss, -1)] == ["sqrt", "pow", "log"]
    assert all(s.guilt is None for s in suspects(loss, -1))


@pytest.mark.parametrize("name", [*SINGULARITIES, *OF_VALUES])
def test_every_singularity_names_an_op_that_autograd_knows(name: str) -> None:
    assert any(hasattr(torch._C._functions, f"{name}Backward{i}") for i in ("", 0, 1)) or name in {
        "Mean", "Std", "NllLoss", "NllLoss2D", "CtcLoss", "CudnnCtcLoss"
    }  # fmt: skip


def test_of_two_that_move_in_turn_each_is_run_again_with_the_weights_of_its_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A generator's pass sees what its critic has just become, and its own weights of before."""
    torch.manual_seed(0)
    one, two = Net(lambda h: torch.log(h * 0)), nn.Linear(3, 1)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (one, two)]
    seen: list[float] = []
    own = replay

    def spied(call: Call, **options: Any) -> Any:
        weights = options["weights"]
        parts = [p for model in (one, two) for p in model.parameters()]
        seen.append(float(sum(weights.get(id(p), p).detach().double().square().sum() for p in parts)))
        return own(call, **options)

    monkeypatch.setattr("gradtrace.monitor.nonfinite.birthplace.replay", spied)
    at_the_pass: list[float] = []
    with gradtrace.watch({"one": one, "two": two}, optimizers, budget=10.0) as watch:
        for number in range(BAD_STEP + 3):
            for of_two in (True, False):
                for optimizer in optimizers:
                    optimizer.zero_grad()
                if not of_two and number == BAD_STEP:
                    parts = [p for model in (one, two) for p in model.parameters()]
                    at_the_pass.append(float(sum(p.detach().double().square().sum() for p in parts)))
                (two(one(batch(not of_two and number == BAD_STEP))) - float(of_two)).square().mean().backward()
                optimizers[int(of_two)].step()
    assert watch.diagnosis.findings[0].where == ("one", "one.norm")
    assert seen[0] == at_the_pass[0]
    assert not all(bool(p.isfinite().all()) for p in one.parameters())


def test_of_passes_that_add_up_the_bad_one_is_run_again() -> None:
    torch.manual_seed(0)
    model = Net(lambda h: torch.log(h * 0))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for number in range(BAD_STEP + 2):
            optimizer.zero_grad()
            for part in range(3):
                plain_loss(model(batch(number == BAD_STEP and part == 1)), False).backward()
            optimizer.step()
    finding = first_of(watch)
    assert "log" in finding.message
    assert "test_flight.py:" in finding.source


def test_a_run_that_ends_at_once_is_explained_all_the_same() -> None:
    torch.manual_seed(0)
    model = Net(lambda h: torch.log(h * 0))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for number in range(BAD_STEP + 1):
            optimizer.zero_grad()
            loss = plain_loss(model(batch(number == BAD_STEP)), False)
            loss.backward()
            if not math.isfinite(float(loss.detach())):
                break
            optimizer.step()
    assert "log" in first_of(watch).message


def test_a_number_born_between_two_modules_is_not_the_batch_s() -> None:
    torch.manual_seed(0)
    parts = nn.ModuleDict({"embedding": nn.Embedding(5, 4), "out": nn.Linear(4, 1)})
    optimizer = torch.optim.SGD(parts.parameters(), lr=1e-3)
    with gradtrace.watch(parts, optimizer, budget=10.0) as watch:
        for number in range(BAD_STEP + 2):
            optimizer.zero_grad()
            mask = torch.full((6, 3, 1), float(number != BAD_STEP))
            h = (parts["embedding"](torch.randint(0, 5, (6, 3))) * mask).sum(1) / mask.sum(1)
            parts["out"](h).square().mean().backward()
            optimizer.step()
    finding = first_of(watch)
    assert finding.cause is Cause.UNSAFE_OP
    assert "division by zero" in finding.message or "in front of out, which was given it" in finding.message


@pytest.mark.parametrize("rate", [0.01, 1e3])
def test_a_model_that_is_called_with_an_inner_loop_s_weights_is_not_said_to_be_finite(rate: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gradtrace.watch(model, optimizer) as watch:
        for _ in range(3):
            x = torch.randn(8, 4)
            fast: dict[str, torch.Tensor] = dict(model.named_parameters())
            for _ in range(6):
                loss = torch.func.functional_call(model, fast, (x,)).square().mean()
                gradients = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
                moved = zip(fast.items(), gradients, strict=True)
                fast = {name: weight - rate * gradient for (name, weight), gradient in moved}
            optimizer.zero_grad()
            torch.func.functional_call(model, fast, (x,)).square().mean().backward()
            optimizer.step()
    found = [finding for finding in watch.diagnosis.findings if finding.symptom is Symptom.NONFINITE]
    assert bool(found) is (rate > 1.0)
    for finding in found:
        assert "other weights than its own" in finding.message
        assert "output is finite" not in finding.message


@pytest.mark.parametrize("ill", [True, False])
def test_what_an_ignored_target_hides_is_born_in_the_model(ill: bool) -> None:
    """The loss is finite, as it leaves the sample out; 0 * NaN comes back all the same."""

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.query, self.out = nn.Embedding(5, 8), nn.Linear(8, 8), nn.Linear(8, 5)

        def forward(self, tokens: torch.Tensor, is_pad: torch.Tensor) -> torch.Tensor:
            h = self.embed(tokens)
            scores = (self.query(h) @ h.mT).masked_fill(is_pad[:, None], -math.inf)
            return self.out(scores.softmax(-1) @ h)

    torch.manual_seed(0)
    model = Attending()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradtrace.watch(model, optimizer) as watch:
        for step in range(BAD_STEP + 1):
            tokens = torch.randint(5, (4, 6))
            is_pad = torch.arange(6) >= torch.tensor([3, 4, 5, 0 if ill and step == BAD_STEP else 6])[:, None]
            optimizer.zero_grad()
            logits = model(tokens, is_pad)
            F.cross_entropy(logits.flatten(0, 1), tokens.masked_fill(is_pad, -100).flatten()).backward()
            optimizer.step()
    found = [finding for finding in watch.diagnosis.findings if finding.symptom is Symptom.NONFINITE]
    assert [(f.cause, f.step) for f in found] == ([(Cause.UNSAFE_OP, BAD_STEP)] if ill else [])
    for finding in found:
        assert "The loss is finite, and a part of the output that it leaves out is not: softmax" in finding.message
        assert finding.where[0] == ""
        assert "test_flight.py:" in finding.source
