"""Whole traces of compiled models: those of the uncompiled code, beside a training that nobody disturbs."""

from __future__ import annotations

import math
import random
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.dynamo import SHOWS_ENTRANCE, needs_entrance, needs_result
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.monitor.traces.compiled import HIDDEN
from gradtrace.records.vocabulary import Factor

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:torch.compile with fullgraph=True:UserWarning"),  # torch 2.12 under a stance
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),  # dynamo's own
]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(16), nn.MultiheadAttention(16, 2, dropout=0.1, batch_first=True)
        self.second, self.inner = nn.LayerNorm(16), nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.dropout(self.inner(self.second(x)))


class Tied(nn.Module):
    """A small language model that makes its own loss, with an embedding that is its head as well."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.block, self.head = nn.Embedding(11, 16), Block(), nn.Linear(16, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.head(self.block(self.embedding(tokens)))
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Convolutions(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Flatten(), nn.Linear(64, 3),
        )  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))


def thinned() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 3))


def deep() -> nn.Module:
    layers = [layer for _ in range(14) for layer in (nn.Linear(16, 16), nn.Sigmoid())]
    return nn.Sequential(nn.Linear(8, 16), *layers, nn.Linear(16, 3))


def vectors(step: int) -> Any:
    return (torch.randn(12, 8),), torch.randint(0, 3, (12,))


def resized(step: int) -> Any:
    return (torch.randn(12 + step % 4, 8),), torch.randint(0, 3, (12 + step % 4,))


def sequences(step: int) -> Any:
    return (torch.randn(4, 5, 16),), torch.randint(0, 16, (4, 5))


def images(step: int) -> Any:
    return (torch.randn(6, 1, 8, 8),), torch.randint(0, 3, (6,))


def tokens(step: int) -> Any:
    both = torch.randint(0, 11, (4, 6))
    return (both[:, :-1], both[:, 1:]), None


def loss_of(output: Any, target: torch.Tensor | None) -> torch.Tensor:
    if target is None:
        return output[1]  # type: ignore[no-any-return]
    return F.cross_entropy(output.flatten(0, -2), target.flatten())


MODELS: dict[str, tuple[Any, Any]] = {
    "MLP": (mlp, vectors),
    "MLP with dropout": (thinned, vectors),
    "transformer with dropout": (Block, sequences),
    "convolutions with batch norm": (Convolutions, images),
    "language model": (Tied, tokens),
    "other sizes": (mlp, resized),
}


def whole(model: nn.Module, **options: Any) -> Any:
    return torch.compile(model, **options)


def in_place(model: nn.Module, **options: Any) -> Any:
    model.compile(**options)
    return model


def trained(
    model: str, compiler: Any = None, *, watched: bool = True, steps: int = 8, loss_fn: Any = loss_of, **options: Any
) -> tuple[Any, list[torch.Tensor], dict[str, Any]]:
    """Watch, parameters and buffers in the end, and dynamo's counters."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    make, batches = MODELS.get(model, (deep, vectors))
    own = make()
    run = own if compiler is None else compiler(own, **{"backend": "aot_eager", **options})
    optimizer = torch.optim.SGD(own.parameters(), lr=0.1, momentum=0.9)
    watch = gradtrace.watch(run, optimizer, every=3, budget=10.0) if watched else None
    if watch is not None:
        watch.start()
    for step in range(steps):
        inputs, target = batches(step)
        optimizer.zero_grad()
        loss_fn(run(*inputs), target).backward()
        optimizer.step()
    if watch is not None:
        watch.receive()
    counted = {key: dict(found) for key, found in torch._dynamo.utils.counters.items()}
    if watch is not None:
        watch.close()
    return watch, [tensor.detach().clone() for tensor in own.state_dict().values()], counted


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def assert_alike(compiled: Any, eager: Any) -> None:
    """Op by op, whatever the order."""
    assert compiled.loss == pytest.approx(eager.loss, rel=1e-5)
    assert compiled.batch_size == eager.batch_size
    ops = [{(op.name, seen(op), op.parameter, number(t, op)): op for op in t.ops} for t in (compiled, eager)]
    assert ops[0].keys() == ops[1].keys()
    for key, op in ops[0].items():
        other = ops[1][key]
        assert (op.factor, op.weights, op.opaque) == (other.factor, other.weights, other.opaque), key
        assert (op.activation is None) == (other.activation is None)
        if is_seen(op):
            assert op.function == other.function
            assert (op.objective is None) == (other.objective is None)
        assert norm(op.received) == pytest.approx(norm(other.received), rel=1e-5, abs=1e-12), key
        assert list(map(norm, op.passed)) == pytest.approx(list(map(norm, other.passed)), rel=1e-5, abs=1e-12)
        assert list(map(known, op.shares)) == pytest.approx(list(map(known, other.shares)), rel=1e-4, abs=1e-5), key
    forward = [sorted(ops, key=lambda op: op.sequence) for ops in (compiled.ops, eager.ops)]
    made = [[(op.name, seen(op)) for op in one if op.parameter is None] for one in forward]
    assert made[0] == made[1]


def is_seen(op: Any) -> bool:
    """Or it lies beside compiled code, where this torch shows only the tape."""
    return SHOWS_ENTRANCE or op.site.module is not None


def seen(op: Any) -> Any:
    return op.site if is_seen(op) else replace(op.site, source="")


def number(trace: Any, op: Any) -> int:
    """Of several ops on one line."""
    alike = [o.sequence for o in trace.ops if (o.name, seen(o), o.parameter) == (op.name, seen(op), op.parameter)]
    return sorted(alike).index(op.sequence)


def norm(stats: Any) -> float:
    return stats.norm if stats is not None else -1.0


def known(share: float | None) -> float:
    return -9.0 if share is None else share


@pytest.mark.parametrize(("model", "compiler"), [*((model, whole) for model in MODELS), ("language model", in_place)])
def test_a_compiled_model_has_the_trace_of_the_uncompiled_one(model: str, compiler: Any) -> None:
    options = {"dynamic": True} if model == "other sizes" else {"fullgraph": True}
    _, bare, counted = trained(model, compiler, watched=False, **options)
    watch, weights, counted_watched = trained(model, compiler, **options)
    eager, _, _ = trained(model)
    assert same(bare, weights)
    assert counted_watched == counted
    assert watch.run.notes == ()
    assert watch.run.samples == eager.run.samples != ()
    for one, other in zip(watch.traces, eager.traces, strict=True):
        assert_alike(one, other)
        assert any("through the uncompiled code" in note for note in one.coverage.notes)
        assert any("within" in note for note in one.coverage.notes)


def halved(h: torch.Tensor) -> torch.Tensor:
    return torch.tanh(h) / 2


class Layer(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(super().forward(x))


class Parts(nn.Module):
    """An eager model, of which something is compiled: a part, a part in place, or a function that it calls."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.first, self.last, self.function = Layer(8, 16), nn.Linear(16, 3), torch.tanh
        if what == "a part":
            self.first = compiled(self.first)
        if what == "a part in place":
            self.first.compile(backend="eager", fullgraph=True)
        if what == "a function":
            self.function = compiled(halved)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.function(self.first(x)))  # type: ignore[no-any-return]


def compiled(thing: Any) -> Any:
    return torch.compile(thing, backend="eager", fullgraph=True)


def with_loss(model: Any, loss_fn: Any) -> Any:
    return lambda x, y: loss_fn(model(x), y)


BY_THE_RESULT = [pytest.param(what, marks=needs_result) for what in ("the loss", "all")]


@pytest.mark.parametrize("what", ["a part", "a part in place", "a function", *BY_THE_RESULT, "the optimizer"])
def test_where_something_else_is_compiled_the_rest_is_seen_as_well(what: str) -> None:
    seen = []
    for is_watched in (False, True):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        torch.manual_seed(0)
        model = Parts(what)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        forward = with_loss(model, compiled(F.cross_entropy) if what == "the loss" else F.cross_entropy)
        forward = compiled(forward) if what == "all" else forward
        step = torch.compile(optimizer.step, backend="eager") if what == "the optimizer" else optimizer.step
        watch = gradtrace.watch(model, optimizer, every=2, budget=10.0).start() if is_watched else None
        for _ in range(6):
            optimizer.zero_grad()
            forward(torch.randn(12, 8), torch.randint(0, 3, (12,))).backward()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of dynamo, at hooks on optimizers
                step()
        if watch is not None:
            watch.close()
            assert watch.run.notes == ()
            assert len(watch.run.samples) > 2
            assert watch.run.steps.num_steps == 6
            trace = watch.traces[-1]
            assert {op.site.module for op in trace.ops if op.weights} >= {"last"}
            assert trace.coverage.opaque == ()
            assert sum(op.factor is Factor.LOSS for op in trace.ops) == 2
            assert budget(trace) == pytest.approx(decades(trace), abs=1e-5)
        counted = {key: dict(found) for key, found in torch._dynamo.utils.counters.items() if found}
        seen.append((list(model.state_dict().values()), counted))
    assert same(seen[0][0], seen[1][0])
    assert seen[0][1]["stats"]
    if what != "the optimizer":  # a hook on whose step breaks its graph
        assert seen[0][1] == seen[1][1]


def path(trace: Any) -> list[tuple[Any, int]]:
    """The way down that carries most, from the loss to a leaf, as (op, slot)."""
    found, op = [], trace.ops[0]
    while any(op.targets):
        slot = max((s for s, t in enumerate(op.targets) if t and op.passed[s]), key=lambda s: op.passed[s].norm)
        found.append((op, slot))
        op = trace.ops[op.targets[slot][0]]
    return found


def budget(trace: Any) -> float:
    """Gains of ops and merges along a path."""
    total = 0.0
    for op, slot in path(trace):
        target = trace.ops[op.targets[slot][0]]
        total += math.log10(op.gain(slot)) + math.log10(target.received.norm / op.passed[slot].norm)
    return total


def decades(trace: Any) -> float:
    op, slot = path(trace)[-1]
    return math.log10(trace.ops[op.targets[slot][0]].received.norm / trace.ops[0].received.norm)


def test_factors_along_a_path_sum_to_the_whole_and_the_loss_is_part_of_it() -> None:
    watch, _, _ = trained("MLP", whole)
    trace = watch.traces[-1]
    assert budget(trace) == pytest.approx(decades(trace), abs=1e-5)
    assert {op.factor for op in trace.ops if op.site.module is None} == {Factor.LOSS}
    assert any(op.objective is not None for op in trace.ops) is SHOWS_ENTRANCE
    assert all(bool(op.site.source) is is_seen(op) for op in trace.ops if op.parameter is None)


def test_a_deep_sigmoid_network_gets_the_same_verdict() -> None:
    verdicts = []
    for compiler in (None, whole):
        watch, _, _ = trained("deep", compiler, steps=4)
        finding = watch.diagnosis.findings[0]
        verdicts.append((finding.symptom, finding.cause, finding.where, finding.severity))
    assert verdicts[0] == verdicts[1]
    assert verdicts[0][0].value == "vanishing"


def test_two_models_in_a_row_and_one_called_twice_are_one_trace() -> None:
    """A generator's gradient comes through the discriminator, which is called for the real samples too."""

    def traces(is_compiled: bool) -> Any:
        torch._dynamo.reset()
        torch.manual_seed(0)
        generator, critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh()), nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        optimizer = torch.optim.SGD([*generator.parameters(), *critic.parameters()], lr=0.1)
        models: Any = {"G": generator, "D": critic}
        if is_compiled:
            models = {key: torch.compile(model, backend="aot_eager") for key, model in models.items()}
        with gradtrace.watch(models, optimizer, every=1, budget=10.0) as watch:
            for _ in range(3):
                optimizer.zero_grad()
                fake = models["D"](models["G"](torch.randn(6, 4)))
                (fake - models["D"](torch.randn(6, 8))).square().mean().backward()
                optimizer.step()
        assert watch.run.notes == ()
        return watch.traces

    for one, other in zip(traces(True), traces(False), strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert {p.name: norm(p.gradient) for p in one.parameters} == pytest.approx(
            {p.name: norm(p.gradient) for p in other.parameters}, rel=1e-5
        )
        assert {str(seen(op)) for op in one.ops} == {str(seen(op)) for op in other.ops}
        assert len(one.ops) == len(other.ops)
        assert budget(one) == pytest.approx(budget(other), abs=1e-5)


class Spoilt(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.last, self.how = nn.Linear(8, 16), nn.Linear(16, 3), how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        is_fine = x[:, :1] < 50
        h = torch.tanh(self.first(x))
        if self.how == "log":
            h = torch.log(h + 2 - 4 * ~is_fine)  # here: log
        if self.how == "division":
            h = h / is_fine  # here: division
        if self.how == "sqrt":
            h = torch.sqrt(h.square() * is_fine)  # here: sqrt
        return self.last(h)  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", ["log", "division", "sqrt"])
@pytest.mark.parametrize("what", ["the model", *BY_THE_RESULT[1:]])
def test_a_nan_is_named_at_its_line(how: str, what: str) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Spoilt(how)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = torch.compile(model, backend="aot_eager", fullgraph=True) if what == "the model" else model

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(run(x), y)

    step = loss_of if what == "the model" else torch.compile(loss_of, backend="aot_eager", fullgraph=True)
    with gradtrace.watch(run, optimizer, budget=10.0) as watch:
        for number in range(4):
            x = torch.randn(12, 8)
            x[3, 0] = 100.0 if number == 3 else 0.0
            optimizer.zero_grad()
            step(x, torch.randint(0, 3, (12,))).backward()
            optimizer.step()
    finding = next(f for f in watch.diagnosis.findings if f.symptom.value == "nonfinite")
    lines = Path(__file__).read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if text.endswith(f"# here: {how}"))
    assert f"test_compiled.py:{line}" in finding.message
    assert finding.step == 3


class Noted(nn.Module):
    """Everything that a call may leave behind."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.seen, self.count = nn.Linear(8, 3), [], 0  # type: ignore[var-annotated]
        self.register_buffer("mean", torch.zeros(3))
        self.mean: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        self.seen.append(self.count)
        y = self.inner(x)
        self.mean.lerp_(y.detach().mean(0), 0.1)
        return y - self.mean + torch.rand(())


def test_a_call_that_is_made_once_more_leaves_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[str] = []
    found = []
    for is_watched in (False, True):
        torch._dynamo.reset()
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # the legacy generator is what a model draws from
        calls.clear()
        model = Noted()
        model.inner.register_forward_hook(lambda *_: calls.append("hook"))
        model.inner.register_forward_hook(lambda *_: print("called"))  # noqa: T201
        model.inner.weight.register_hook(lambda _: calls.append("gradient"))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run = torch.compile(model, backend="eager")
        watch = gradtrace.watch(run, optimizer, every=1, budget=10.0).start() if is_watched else None
        for _ in range(3):
            optimizer.zero_grad()
            run(torch.randn(5, 8)).square().mean().backward()
            optimizer.step()
        if watch is not None:
            assert watch.run.samples == (0, 1, 2)
            watch.close()
        states = random.random(), float(np.random.rand()), float(torch.rand(()))
        weights = [tensor.tolist() for tensor in model.state_dict().values()]
        found.append((model.seen, model.count, list(calls), states, weights, capsys.readouterr().out))
    assert found[0] == found[1]


def test_what_goes_wrong_beside_the_training_is_one_sentence() -> None:
    torch._dynamo.reset()

    class Picky(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not torch.compiler.is_compiling():
                raise ValueError("only for the compiler")
            return super().forward(x)

    model = Picky(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = torch.compile(model, backend="eager")
    before = model.weight.detach().clone()
    with gradtrace.watch(run, optimizer, every=1, budget=10.0) as watch:
        for _ in range(3):
            optimizer.zero_grad()
            run(torch.randn(5, 8)).square().mean().backward()
            optimizer.step()
    assert watch.run.steps.num_steps == 3
    assert not torch.equal(before, model.weight)
    sentence = (
        "a step was not traced: called once more without its compiler, it raised ValueError: only for the compiler"
    )
    assert watch.run.notes == (sentence,)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("input", "the inputs of the model were changed in place since"),
        ("kept", "a value from inside of the model reaches the loss, not by its output"),
    ],
)
def test_what_cannot_be_traced_is_told_once(how: str, told: str) -> None:
    torch._dynamo.reset()

    class Keeping(nn.Linear):
        kept: Any = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.kept = super().forward(torch.ones_like(x)) + x[:, :3]
            return torch.tanh(self.kept)

    model = Keeping(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = torch.compile(model, backend="eager")
    with gradtrace.watch(run, optimizer, every=1, budget=10.0) as watch:
        for _ in range(3):
            x = torch.randn(5, 8)
            optimizer.zero_grad()
            loss = run(x).square().mean()
            if how == "input":
                x.zero_()
            else:
                loss = loss + model.kept.square().mean()
            loss.backward()
            optimizer.step()
    assert watch.run.notes == (f"a step was not traced: {told}",)
    assert watch.run.samples == ()


def test_a_rest_does_not_make_anything_compile_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradtrace.monitor.schedule.schedule.SHORTEST", 2)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = Parts("")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradtrace.watch(model, optimizer, budget=1e-4) as watch, torch._dynamo.config.patch(error_on_recompile=True):
        step = torch.compile(lambda x: model(x).square().mean(), backend="eager", fullgraph=True)
        for _ in range(200):
            optimizer.zero_grad()
            step(torch.randn(12, 8)).backward()
            optimizer.step()
    assert watch.run.steps.num_steps == 200
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_a_compiler_that_errs_is_told() -> None:
    def broken(graph: Any, _inputs: Any) -> Any:
        return lambda *given: tuple(1.05 * output for output in graph(*given))

    watch, _, _ = trained("MLP", whole, backend=broken)
    (note,) = watch.run.notes
    assert note.startswith("compiled and uncompiled code part: gradient norms of weights are within ")
    assert "from 4." in note


@pytest.mark.parametrize("hidden", ["compiled_entrance", pytest.param("compiled_switch", marks=needs_entrance)])
def test_a_torch_that_hides_its_entrance_tells_less(hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"gradtrace.monitor.hooks.compiled_code.{hidden}", lambda: None)
    bare = trained("MLP", whole, watched=False, loss_fn=F.cross_entropy)
    watched = trained("MLP", whole, loss_fn=F.cross_entropy)
    assert same(bare[1], watched[1])
    assert watched[2] == bare[2]
    loss = [op for op in watched[0].traces[0].ops if op.site.module is None]
    assert len(loss) == 2
    assert all(bool(op.site.source) is (hidden == "compiled_switch") for op in loss)
    assert (HIDDEN in watched[0].traces[0].coverage.notes) is (hidden == "compiled_entrance")


def test_of_a_compiled_loss_that_nobody_sees_the_ops_are_there_and_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gradtrace.monitor.hooks.compiled_code.compiled_switch", lambda: None)
    torch._dynamo.reset()
    model = Parts("")
    loss_fn = with_loss(model, torch.compile(loss_of, backend="eager", fullgraph=True))
    with gradtrace.watch(model, every=1, budget=10.0) as watch:
        for _ in range(3):
            model.zero_grad()
            loss_fn(torch.randn(12, 8), torch.randint(0, 3, (12,))).backward()
    assert watch.run.notes == ()
    trace = watch.traces[-1]
    assert [(op.name, op.site.source) for op in trace.ops if op.site.module is None and op.parameter is None] == [
        ("NllLossBackward0", ""), ("LogSoftmaxBackward0", "")
    ]  # fmt: skip
    assert HIDDEN in trace.coverage.notes


def test_of_a_function_around_the_model_that_nobody_sees_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradtrace.monitor.hooks.compiled_code.compiled_switch", lambda: None)
    torch._dynamo.reset()
    model = Parts("")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradtrace.watch(model, optimizer, every=1, budget=10.0) as watch:
        forward = compiled(with_loss(model, F.cross_entropy))
        for _ in range(3):
            optimizer.zero_grad()
            forward(torch.randn(12, 8), torch.randint(0, 3, (12,))).backward()
            optimizer.step()
    assert watch.run.notes == ("a step was not traced: something is compiled, and no call of what is watched was seen",)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="inductor needs a compiler")
@pytest.mark.filterwarnings("ignore:.*force disabled by:UserWarning")
@pytest.mark.parametrize("model", ["MLP", "MLP with dropout"])  # a minute of a compiler for each layer more
def test_inductor(model: str) -> None:
    with torch._inductor.config.patch(force_disable_caches=True):
        _, bare, counted = trained(model, whole, watched=False, backend="inductor")
        watch, weights, counted_watched = trained(model, whole, backend="inductor")
    eager, _, _ = trained(model)
    assert same(bare, weights)
    assert counted_watched == counted
    assert watch.run.notes == ()
    notes = " ".join(watch.traces[-1].coverage.notes)
    assert ("compiled code may draw others" in notes) is (model != "MLP")
    if model == "MLP":
        assert_alike(watch.traces[0], eager.traces[0])
