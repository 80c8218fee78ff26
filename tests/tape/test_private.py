"""Whatever private name torch lacks: nothing fails, the coverage says what was not seen, the other numbers stay."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.dynamo import needs_result
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import gradtrace
from gradtrace.diagnosis.judge import judge_trace
from gradtrace.errors import InputError
from gradtrace.records.trace import Site, Trace
from gradtrace.records.vocabulary import Severity
from gradtrace.tape import private

SOURCES = Path(private.__file__).parents[1]


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.mul(2)

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class Tripled(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.mul(3)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return 3 * gradient


class Scaled(Doubled):
    """The same forward as its parent's, under another name."""

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Cast(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx, x):
        return x.mul(2)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, gradient):
        return gradient


class Network(nn.Module):
    """An op of every kind that a private name serves for: attention, a checkpoint, custom functions, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.attention, self.head = nn.Linear(8, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 1)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        x = checkpoint(lambda y: torch.sigmoid(self.inner(y)), x, use_reentrant=False)
        x, _ = self.attention(x, x, x, need_weights=False)
        self.seen.add_(1)
        return self.head(Tripled.apply(Doubled.apply(x)))


def traced(**options) -> Trace:
    torch.manual_seed(0)
    model = Network()
    return gradtrace.trace(model, lambda model, x: model(x).square().mean(), torch.randn(4, 3, 8), **options)


def hide(monkeypatch: pytest.MonkeyPatch, *paths: str) -> None:
    monkeypatch.setattr(private, "find", lambda path, real=private.find: None if path in paths else real(path))


def numbers(trace: Trace) -> list:
    """What comes from gradients alone; sites, factors and activations need more of torch."""
    return [trace.loss, *trace.parameters, *((op.name, op.received, op.passed, op.shares) for op in trace.ops)]


def unnumbered(trace: Trace) -> Trace:
    return replace(trace, ops=tuple(replace(op, sequence=0) for op in trace.ops))


@pytest.mark.parametrize("path", private.UNSEEN)
def test_without_a_private_name_the_coverage_says_what_was_not_seen(path: str, monkeypatch) -> None:
    whole = traced()
    hide(monkeypatch, path)
    trace = traced()
    assert numbers(trace) == numbers(whole)
    assert trace.coverage.notes == tuple(filter(None, [private.UNSEEN[path]]))
    if not private.UNSEEN[path]:  # then nothing is lost
        assert unnumbered(trace) == unnumbered(whole)


def test_without_any_private_name(monkeypatch) -> None:
    whole = traced()
    hide(monkeypatch, *private.UNSEEN)
    trace = traced()
    assert numbers(trace) == numbers(whole)
    assert len(trace.coverage.notes) == len({sentence for sentence in private.UNSEEN.values() if sentence})
    assert {op.site.module for op in trace.ops if op.parameter is None} == {None}
    assert not any(finding.severity is Severity.CRITICAL for finding in judge_trace(trace).findings)


def test_where_ops_are_not_numbered_none_is_given_a_wrong_place(monkeypatch) -> None:
    hide(monkeypatch, "Node._sequence_nr", "torch.autograd._get_sequence_nr")
    assert {op.site for op in traced().ops if op.parameter is None and "Backward0" in op.name} == {Site(None)}


def test_a_random_gradient_needs_to_know_the_shape(monkeypatch) -> None:
    hide(monkeypatch, "Node._input_metadata")
    with pytest.raises(InputError, match="does not say what gradient an op takes"):
        traced(probe="random")
    checked = gradtrace.check(Network(), lambda model, x: model(x).square().mean(), [torch.randn(4, 3, 8)])
    assert any("no second probe" in refusal for refusal in checked.refusals)


def test_a_prediction_needs_no_private_name(monkeypatch) -> None:
    def growths() -> list[float]:
        torch.manual_seed(0)
        return [layer.measured_growth for layer in gradtrace.predict(Network(), torch.randn(4, 3, 8), seed=1).layers]

    whole = growths()
    hide(monkeypatch, *private.UNSEEN)
    assert growths() == whole


@pytest.mark.parametrize(("version", "age"), [("2.99.0", "newer"), ("3.0.0a0+git1234", "newer"), ("2.5.1", "older")])
def test_a_torch_that_was_not_tried_is_one_sentence(version: str, age: str, monkeypatch) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    (note,) = traced().coverage.notes
    assert note.startswith(f"torch {version} is {age} than any that gradtrace was tried with (2.6 to ")


@pytest.mark.parametrize("version", ["2.6.0", "2.13.0+cpu", "2.15.1+cu132", "unknown"])
def test_a_torch_that_was_tried_is_not_remarked_on(version: str, monkeypatch) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    assert traced().coverage.notes == ()


def test_the_torch_at_hand_has_every_name_but_those_that_are_known_to_be_younger() -> None:
    lacking = {path for path in private.UNSEEN if private.find(path) is None}
    assert lacking <= {"torch._C._autograd._top_saved_tensors_default_hooks"}  # torch 2.6 is without


# ------------------------------------------------------------------------------------------------ one name at a time


def test_custom_functions_are_named_with_the_line_that_applies_them() -> None:
    ops = {op.name: op for op in traced().ops}
    for kind in (Doubled, Tripled):
        op = ops[f"{kind.__name__}Backward"]
        assert op.function == kind.__name__
        assert re.fullmatch(r".*test_private\.py:\d+", op.site.source)
    assert ops["DoubledBackward"].site.source == ops["TripledBackward"].site.source


@pytest.mark.parametrize("kind", [Scaled, Cast])
def test_a_forward_that_is_inherited_or_wrapped_is_found(kind: type) -> None:
    model = nn.Linear(3, 1)
    trace = gradtrace.trace(model, lambda model, x: kind.apply(model(x)).mean(), torch.randn(2, 3))
    (op,) = [op for op in trace.ops if op.name == f"{kind.__name__}Backward"]
    assert op.function == kind.__name__
    assert "test_private.py" in op.site.source


def test_fake_tensors_are_told_without_a_private_name(monkeypatch) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    hide(monkeypatch, "torch._C._get_dispatch_mode")
    assert not private.inside_fake()
    with FakeTensorMode():
        assert private.inside_fake()
    assert not private.inside_fake()


@pytest.mark.parametrize("hidden", [(), private.MODES])
def test_a_mode_that_was_lifted_is_gone(hidden: tuple[str, ...], monkeypatch) -> None:
    class Counting(TorchFunctionMode):
        count = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.count += 1
            return func(*args, **(kwargs or {}))

    hide(monkeypatch, *hidden)
    with Counting() as outer:
        inner = Counting()
        inner.__enter__()
        private.sink_mode(inner)
        torch.ones(2).exp()
        private.lift_mode(inner)
        torch.ones(2).exp()
    assert (inner.count, outer.count) == (2, 4)


class Bare:
    """Whatever it stands for, without a single private name."""

    def get_scale(self) -> float:
        return 8.0


def test_what_stand_ins_without_private_names_are_told_to_be() -> None:
    assert float(private.loss_scale_of(Bare())) == 8.0
    assert private.version_of(Bare()) == 0
    assert private.original_of(Bare()) is None
    assert private.compiled_call(Bare()) is None
    assert private.forward_of(Bare()) is None


def test_names_of_scalers_compiled_modules_and_tensors() -> None:
    scaler, module, x = torch.amp.GradScaler("cpu", init_scale=16.0), nn.Linear(2, 2), torch.ones(2)
    assert private.loss_scale_of(scaler) is None
    scaler.scale(x.sum())
    assert float(private.loss_scale_of(scaler)) == 16.0
    assert private.original_of(torch.compile(module, backend="eager")) is module
    assert private.original_of(module) is None
    before = private.version_of(x)
    x.add_(1)
    assert private.version_of(x) == before + 1


@needs_result
def test_the_entrance_to_compiled_code_is_shown_or_not(monkeypatch) -> None:
    def double(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    torch.compile(double, backend="eager")
    frames, name = private.compiled_entrance()
    assert callable(getattr(frames, name))
    assert private.compiled_switch() == (frames, "_maybe_set_eval_frame")
    monkeypatch.delattr(frames, "_maybe_set_eval_frame")
    assert private.compiled_switch() is None
    assert private.compiled_entrance() is not None
    monkeypatch.undo()
    monkeypatch.setattr(private, "_entering", lambda frames: "prior = set_eval_frame(None)\nreturn fn(*args, **kwargs)")
    assert private.compiled_entrance() is not None
    assert private.compiled_switch() is None
    monkeypatch.undo()
    monkeypatch.delattr(frames, "_TorchDynamoContext")
    private._entering.cache_clear()
    assert private.compiled_entrance() is None
    private._entering.cache_clear()
    assert private.compiled_frame(sys._getframe()) is None
    assert private.compiled_frame(None) is None


def test_whether_backward_passes_are_compiled() -> None:
    torch.compile(torch.sin, backend="eager")
    assert not private.backward_is_compiled()
    with torch._dynamo.config.patch(compiled_autograd=True):
        assert private.backward_is_compiled()


def test_a_function_that_dynamo_does_not_look_into_is_the_same_one() -> None:
    torch.compile(torch.sin, backend="eager")
    assert private.unseen_by_dynamo(divmod)(7, 2) == (3, 1)


def test_many_tensors_at_once_or_one_by_one(monkeypatch) -> None:
    def outcome() -> list[float]:
        tensors = [torch.tensor([3.0, 4.0]), torch.tensor([2.0], dtype=torch.float64)]
        private.foreach("sub_")(tensors, [torch.ones(2), torch.ones(1, dtype=torch.float64)])
        copies = [torch.zeros(2), torch.zeros(1, dtype=torch.float64)]
        private.foreach("copy_")(copies, tensors)
        return [float(norm) for norm in private.foreach("norm")(copies, 2)]

    whole = outcome()
    hide(monkeypatch, *(f"torch._foreach_{name}" for name in ("sub_", "copy_", "norm")))
    assert outcome() == pytest.approx(whole)


def test_buffers_are_put_back_without_the_dict_that_holds_them() -> None:
    class Holder:
        def __init__(self) -> None:
            self.seen = torch.zeros(2)

        def named_buffers(self, recurse=True, remove_duplicate=True):
            return [("seen", self.seen)]

    for holder in (Holder(), nn.BatchNorm1d(2)):
        before = private.buffers_of(holder)
        name, kept = next(iter(before.items()))
        setattr(holder, name, torch.ones(2))
        private.put_buffers_back(holder, before)
        assert getattr(holder, name) is kept


class Outside(nn.Module):
    """Shows what it holds by public names alone."""

    HIDDEN = "_buffers", "_modules", "_parameters", "_forward_hooks", "_forward_pre_hooks"

    def __init__(self, within: nn.Module) -> None:
        object.__setattr__(self, "within", within)

    def __getattribute__(self, name: str):
        if name in Outside.HIDDEN:
            raise AttributeError(name)
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value) -> None:
        setattr(self.within, name, value)

    def named_children(self):
        return self.within.named_children()

    def named_parameters(self, *args, **options):
        return self.within.named_parameters(*args, **options)


def test_what_a_module_holds_with_and_without_its_own_dicts() -> None:
    for hide_dicts in (False, True):
        within = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
        module = Outside(within) if hide_dicts else within
        assert list(private.children_of(module).items()) == list(within.named_children())
        first = Outside(within[0]) if hide_dicts else within[0]
        assert list(private.parameters_of(first).items()) == list(within[0].named_parameters())
        other, weight = nn.ReLU(), nn.Parameter(torch.ones(3))
        private.put_child(module, "0", other)
        private.put_child(module, "a.b", other)
        private.put_tensors(module, {"weight": weight})
        assert list(within.named_children()) == [("0", other), ("1", within[1])]  # one module, under two names
        assert dict(within.named_modules(remove_duplicate=False))["a.b"] is other
        assert within.weight is weight
        within.register_forward_hook(len)
        within.register_forward_pre_hook(max)
        assert private.hooks_of(module) == ([] if hide_dicts else [len, max])


def test_views_with_and_without_the_names_that_tell_of_them() -> None:
    whole = torch.ones(4)
    assert private.base_of(whole[:2]) is whole
    assert private.is_view(whole[:2])
    assert not private.is_view(whole)
    assert private.base_of(Bare()) is None
    assert private.is_view(Bare())


def test_nested_values_with_and_without_torchs_own_way_through_them(monkeypatch) -> None:
    nested = {"a": [1, (2, None)], "b": "c", "d": {"e": 3}}
    whole = private.each_in(repr, nested)
    hide(monkeypatch, "torch.utils._pytree.tree_map")
    assert private.each_in(repr, nested) == whole == {"a": ["1", ("2", "None")], "b": "'c'", "d": {"e": "3"}}


def test_what_would_wait_for_others_raises_where_torch_shows_it_and_else_at_once(monkeypatch) -> None:
    with private.calls_to_others_raise():
        assert float(torch.ones(2).sum()) == 2.0
    hide(monkeypatch, "torch.utils._python_dispatch.TorchDispatchMode")
    with pytest.raises(RuntimeError, match="does not show what would wait for other processes"):
        private.calls_to_others_raise()


# ---------------------------------------------------------------------------------------------- the rule of the house

MODEL = nn.Linear(1, 1)
OWNERS: list[Any] = [
    torch, nn, F, torch.autograd, torch.Tensor, MODEL, MODEL(torch.ones(1)).grad_fn, torch.optim.SGD([MODEL.weight]),
    torch.amp.GradScaler("cpu"), torch.utils.data.DataLoader([0]),
]  # fmt: skip
PRIVATE = {name for owner in OWNERS for name in dir(owner) if re.match(r"_[A-Za-z]", name)}
"""As the torch at hand has them."""


def test_no_other_file_uses_a_private_name_of_torch() -> None:
    assert {"_version", "_parameters", "_sequence_nr", "_foreach_norm", "_scale"} <= PRIVATE
    found = []
    for path in sorted(SOURCES.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        own = set(re.findall(r"(?:self|net)\.(_\w+)", source))  # a `net` is skorch's, which has `_modules` as well
        if path != Path(private.__file__):
            found += [f"{path}: {ast.unparse(n)}" for n in ast.walk(ast.parse(source)) if _is_private(n, own)]
    assert found == []


def _is_private(node: ast.AST, own: set[str]) -> bool:
    """`own`: what the file calls its own, of any object of its classes."""
    if isinstance(node, ast.ImportFrom):
        names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        return names[0] == "torch" and any(re.match(r"_[A-Za-z]", name) for name in names)
    if not isinstance(node, ast.Attribute) or not re.match(r"_[A-Za-z]", node.attr):
        return False
    return ast.unparse(node.value).startswith("torch") or node.attr in PRIVATE - own


def test_importing_needs_no_private_name() -> None:
    script = """
import sys
import torch
torch.autograd.Function.apply = classmethod(len)          # what became a builtin once
del torch.autograd._get_sequence_nr
for name in ("peek_interpreter_stack",):
    delattr(torch._C._functorch, name)
import gradtrace.tape.recorder, gradtrace.measure.trace, gradtrace.audit.predict, gradtrace.recurrence.through_time
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
