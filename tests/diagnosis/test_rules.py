"""The other rules: each with an ill network and a healthy twin."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradtrace
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom

from .networks import batches, cross_entropy, mlp


def findings(model: nn.Module, loss_fn: Any = cross_entropy, data: Any = None, **options: Any) -> list[Finding]:
    """Findings of warning and above."""
    diagnosis = gradtrace.check(model, loss_fn, data if data is not None else batches(), **options)
    return [f for f in diagnosis.findings if f.severity is not Severity.INFO]


def verdict(*args: Any, **options: Any) -> tuple[Symptom, Cause] | None:
    """Symptom and cause of the first finding."""
    found = findings(*args, **options)
    return (found[0].symptom, found[0].cause) if found else None


class Middle(nn.Module):
    """Two layers with something in between."""

    def __init__(self, between: Any, unused: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 4)
        self.between = between
        self.unused = nn.Linear(32, 2) if unused else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        if self.unused is not None:
            self.unused(hidden)
        return self.second(self.between(hidden))


@pytest.mark.parametrize("bias", [-20.0, 0.0])
def test_dead_units(bias: float) -> None:
    model = mlp(3, nn.ReLU)
    nn.init.constant_(model[2].bias, bias)  # type: ignore[arg-type]
    found = findings(model)
    assert bool(found) is (bias < 0)
    if found:
        assert (found[0].symptom, found[0].cause) == (Symptom.DEAD_UNITS, Cause.SATURATED_PREACTIVATION)
        assert "2" in found[0].where
        assert "100 % of the 32 units" in found[0].message


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_inputs_that_saturate_the_first_layer(scale: float) -> None:
    data = [(x * scale, y) for x, y in batches()]
    expected = (Symptom.SATURATED, Cause.INPUT_SCALE) if scale > 1 else None
    assert verdict(mlp(2, nn.Tanh), data=data) == expected


@pytest.mark.parametrize("in_evaluation", [True, False])
def test_a_batch_norm_in_evaluation_mode_lets_unscaled_inputs_through(in_evaluation: bool) -> None:
    model = nn.Sequential(nn.BatchNorm1d(batches()[0][0].shape[1]), *mlp(2, nn.Tanh))
    model[0].train(not in_evaluation)
    found = findings(model, data=[(x * 300.0, y) for x, y in batches()])
    assert bool(found) is in_evaluation
    if found:
        assert (found[0].symptom, found[0].cause) == (Symptom.SATURATED, Cause.INPUT_SCALE)
        assert "it is in evaluation mode" in found[0].message


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(torch.Tensor.detach, id="detach"),
        pytest.param(lambda h: h.data.relu(), id="data"),
        pytest.param(torch.no_grad()(torch.relu), id="no_grad"),
        pytest.param(lambda h: (h > 0).float(), id="comparison"),
        pytest.param(lambda h: torch.tensor(h.tolist()), id="tolist"),
        pytest.param(lambda h: torch.from_numpy(h.detach().numpy().copy()), id="numpy"),
        pytest.param(torch.Tensor.round, id="round"),
    ],
)
def test_a_cut_graph_is_named_with_the_line(cut: Any) -> None:
    found = findings(Middle(cut))
    assert (found[0].symptom, found[0].cause) == (Symptom.DISCONNECTED, Cause.DETACHED_GRAPH)
    assert found[0].where[0] in ("first", "")
    assert "test_rules.py" in found[0].source


def test_idle_parts_are_no_fault() -> None:
    assert verdict(Middle(torch.relu, unused=True)) is None
    frozen = Middle(torch.relu)
    frozen.first.requires_grad_(False)
    assert verdict(frozen) is None


def test_layers_in_a_plain_list_are_not_registered() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(16, 16)]
            self.head = nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.layers[0](x)))

    found = findings(Hidden())
    assert found[0].symptom is Symptom.DISCONNECTED
    assert found[0].where[0].startswith("layers")


def test_an_optimizer_that_holds_other_parameters() -> None:
    model = mlp(2, nn.ReLU)
    stale = torch.optim.SGD(model.parameters(), lr=0.01)
    model[0] = nn.Linear(16, 32)
    found = findings(model, optimizer=stale)
    assert (found[0].symptom, found[0].where[0]) == (Symptom.DISCONNECTED, "0")
    assert "2 that are not the model's" in found[0].message


@pytest.mark.parametrize(("is_used", "severity"), [(False, Severity.CRITICAL), (True, Severity.WARNING)])
def test_what_a_run_finds_in_the_optimizer_alone_is_foreign_to_the_model_where_no_pass_reaches_it(
    is_used: bool, severity: Severity
) -> None:
    """A run finds the weights of the layer that was replaced beside the model; a scale of the user's own is in use."""
    model, scale = mlp(2, nn.ReLU), nn.Parameter(torch.ones(()))
    held = [*model.parameters(), scale] if is_used else list(model.parameters())
    optimizer = torch.optim.SGD(held, lr=0.01)
    old = model[0]
    model[0] = nn.Linear(16, 32)
    beside = {"scale": scale} if is_used else {"tensor_0": old.weight, "tensor_1": old.bias}
    if is_used:
        optimizer.param_groups[0]["params"] = held[2:]
    with gradtrace.watch({"model": model} | beside, optimizer) as watch:
        for x, y in batches()[:3]:
            optimizer.zero_grad()
            F.cross_entropy(scale * model(x), y).backward()
            optimizer.step()
    (found,) = (f for f in watch.diagnosis.findings if f.symptom is Symptom.DISCONNECTED)
    assert (found.severity, found.where[0]) == (severity, "model.0")


@pytest.mark.parametrize(
    ("output", "loss", "expected"),
    [
        (nn.Softmax(-1), F.cross_entropy, (Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION)),
        (nn.Identity(), F.cross_entropy, None),
        (nn.LogSoftmax(-1), F.nll_loss, None),
        (nn.Softmax(-1), F.nll_loss, (Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION)),
        (nn.LogSoftmax(-1), F.cross_entropy, None),
    ],
)
def test_the_pairing_of_output_and_loss(output: nn.Module, loss: Any, expected: Any) -> None:
    model = nn.Sequential(nn.Linear(16, 4), output)
    assert verdict(model, lambda m, b: loss(m(b[0]), b[1])) == expected


@pytest.mark.parametrize(
    ("output", "told", "severity"),
    [
        (nn.Identity(), "no minimum", Severity.CRITICAL),
        (nn.ReLU(), "no minimum", Severity.CRITICAL),
        (nn.Softmax(-1), "minus the probability", Severity.WARNING),
    ],
)
def test_a_likelihood_of_what_are_no_log_probabilities(output: nn.Module, told: str, severity: Severity) -> None:
    found = findings(nn.Sequential(nn.Linear(16, 4), output), lambda m, b: F.nll_loss(m(b[0]), b[1]))
    paired = next(f for f in found if f.cause is Cause.LOSS_FUNCTION)
    assert (told in paired.message, paired.severity) == (True, severity)


@pytest.mark.parametrize("offset", [30.0, 0.0])
def test_a_saturated_output_under_squared_error(offset: float) -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())
    nn.init.constant_(model[2].bias, offset)  # type: ignore[arg-type]
    expected = (Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION) if offset else None
    assert verdict(model, lambda m, b: F.mse_loss(m(b[0]), torch.zeros(len(b[0]), 1))) == expected
    # converged: as saturated, but right
    assert verdict(model, lambda m, b: F.binary_cross_entropy(m(b[0]), torch.ones(len(b[0]), 1))) is None


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda h: torch.log(torch.relu(h)), "log"),
        (lambda h: torch.sqrt(torch.relu(h)), "sqrt"),
        (lambda h: (h * 0).square().sum(1, keepdim=True).sqrt() + h, "sqrt"),
        (lambda h: torch.where(h > 0, torch.sqrt(h), h), "sqrt"),
        (lambda h: torch.exp(h * 1e4) / torch.exp(h * 1e4).sum(1, keepdim=True), "exp"),
        (lambda h: torch.acos(h.clamp(-1, 1) * 0 + 1), "acos"),
    ],
)
def test_unsafe_ops(function: Any, name: str) -> None:
    found = findings(Middle(function))
    assert (found[0].symptom, found[0].cause) == (Symptom.NONFINITE, Cause.UNSAFE_OP)
    assert name in found[0].message.lower()
    assert "test_rules.py" in found[0].source


def test_a_gradient_that_is_stopped_before_any_parameter_is_no_critical_finding() -> None:
    """The root has no derivative at zero; the ReLU below it passes nothing on there, a square passes on a NaN."""
    stopped = findings(Middle(lambda h: torch.sqrt(torch.relu(h))))[0]
    assert (stopped.symptom, stopped.cause, stopped.severity) == (Symptom.NONFINITE, Cause.UNSAFE_OP, Severity.WARNING)
    assert "No parameter gets it here" in stopped.message
    passed_on = findings(Middle(lambda h: (h * 0).square().sum(1, keepdim=True).sqrt() + h))[0]
    assert passed_on.severity is Severity.CRITICAL
    assert "No parameter gets it here" not in passed_on.message


def test_non_finite_data_and_parameters() -> None:
    bad = [(x.clone().index_fill_(0, torch.tensor([0]), float("nan")), y) for x, y in batches()]
    found = findings(mlp(2, nn.ReLU), data=bad)
    assert (found[0].symptom, found[0].cause) == (Symptom.NONFINITE, Cause.INPUT_SCALE)
    model = mlp(2, nn.ReLU)
    nn.init.constant_(model[0].bias, float("inf"))  # type: ignore[arg-type]
    assert findings(model)[0].symptom is Symptom.NONFINITE
    assert "0.bias" in findings(model)[0].where


@pytest.mark.parametrize(("rate", "expected"), [(0.1, None), (1e3, (Symptom.EXPLODING, Cause.LEARNING_RATE))])
def test_learning_rate(rate: float, expected: Any) -> None:
    torch.manual_seed(0)
    model = mlp(2, nn.ReLU)
    assert verdict(model, optimizer=torch.optim.SGD(model.parameters(), lr=rate)) == expected


def test_a_summed_loss_with_a_rate_for_a_mean() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 1))
    data = [(torch.randn(512, 16), torch.randn(512, 1)) for _ in range(2)]
    rate = torch.optim.SGD(model.parameters(), lr=0.05)
    for reduction, expected in (("sum", (Symptom.EXPLODING, Cause.REDUCTION_SCALE)), ("mean", None)):
        loss_fn = lambda m, b, how=reduction: F.mse_loss(m(b[0]), b[1], reduction=how)  # noqa: E731
        assert verdict(model, loss_fn, data, optimizer=rate) == expected


def test_bfloat16_weights_that_a_small_step_cannot_move() -> None:
    torch.manual_seed(0)
    data = [(x.bfloat16(), y) for x, y in batches()]
    for rate, ill in ((1e-6, True), (0.05, False)):
        model = mlp(2, nn.ReLU).bfloat16()
        found = verdict(model, data=data, optimizer=torch.optim.Adam(model.parameters(), lr=rate))
        assert found == ((Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT) if ill else None)


def test_float16_gradients_below_the_smallest_number() -> None:
    data = [(x.half(), y) for x, y in batches()]
    for scale, ill in ((1e-7, True), (1.0, False)):
        torch.manual_seed(0)
        loss_fn = lambda m, b, by=scale: cross_entropy(m, b).float() * by  # noqa: E731
        assert (verdict(mlp(2, nn.ReLU).half(), loss_fn, data) == (Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT)) is ill


@pytest.mark.parametrize("scale", [30.0, 1.0])
def test_attention_that_is_one_hot(scale: float) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.head = nn.Linear(16, 48), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(x).chunk(3, -1)
            return self.head((torch.softmax(scale * (q @ k.mT), -1) @ v).mean(1))

    torch.manual_seed(0)
    data = [(torch.randn(8, 12, 16), torch.randint(0, 4, (8,))) for _ in range(2)]
    expected = (Symptom.SATURATED, Cause.ATTENTION_SATURATION) if scale > 1 else None
    assert verdict(Attention(), data=data) == expected


@pytest.mark.parametrize("length", [200, 3])
@pytest.mark.parametrize("cell", [nn.RNN, nn.LSTM, nn.GRU])
def test_a_long_sequence_loses_its_early_gradient(cell: Any, length: int) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = cell(8, 16, batch_first=True), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(x)[0][:, -1])

    torch.manual_seed(0)
    data = [(torch.randn(4, length, 8), torch.randint(0, 4, (4,))) for _ in range(2)]
    expected = (Symptom.VANISHING, Cause.RECURRENT_CONTRACTION) if length > 100 else None
    assert verdict(Last(), data=data) == expected


def test_where_samples_look_alike_a_layer_must_be_silent_beyond_luck_among_many() -> None:
    # all samples equal: each of the 16 units of each of 1000 layers is silent with probability 1/2
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)) for _ in range(1000)]

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks, self.head = nn.ModuleList(blocks), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = x + block(x)
            return self.head(x)

    data = [(x[:1].expand_as(x), y) for x, y in batches()]
    silent = [len(op.activation.dead_units) for op in gradtrace.trace(Residual(), cross_entropy, data[0]).ops
              if op.activation and op.activation.function == "relu"]  # fmt: skip
    assert max(silent) >= 14  # three standard deviations above half: among so many, by luck
    assert not [f for f in findings(Residual(), data=data) if f.symptom is Symptom.DEAD_UNITS]


class Squeezed(nn.Module):
    """A network whose features are weighed by a gate over a few units, all of which are silent; or made of them."""

    def __init__(self, units: int, beside: bool) -> None:
        super().__init__()
        self.first, self.squeeze, self.gate = nn.Linear(16, 32), nn.Linear(32, units), nn.Linear(units, 32)
        self.head, self.beside = nn.Linear(32, 4), beside
        nn.init.constant_(self.squeeze.bias, -20.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = torch.tanh(self.first(x))
        gate = torch.sigmoid(self.gate(torch.relu(self.squeeze(features))))
        return self.head(features * gate if self.beside else gate)


@pytest.mark.parametrize(
    ("units", "beside", "severity"),
    [
        (4, True, Severity.INFO),  # one start in 16
        (32, True, Severity.CRITICAL),  # by no chance
        (4, False, Severity.CRITICAL),  # there is no other way
    ],
)
def test_a_few_units_of_a_side_way_are_silent_by_chance(units: int, beside: bool, severity: Severity) -> None:
    torch.manual_seed(0)
    diagnosis = gradtrace.check(Squeezed(units, beside), cross_entropy, batches())
    (told,) = [f for f in diagnosis.findings if f.symptom is Symptom.DEAD_UNITS]
    assert told.severity is severity
    assert ("by chance" in told.message) is (severity is Severity.INFO)


def test_a_side_way_is_found_in_graphs_that_grow_from_batch_to_batch() -> None:
    def loss_fn(model: nn.Module, batch: Any) -> torch.Tensor:
        loss = cross_entropy(model, batch)
        for _ in range(batch[2]):
            loss = loss * 1.0
        return loss

    data = [(*batch, count) for batch, count in zip(batches(), (0, 60), strict=True)]
    torch.manual_seed(0)
    told = [f for f in gradtrace.check(Squeezed(4, True), loss_fn, data).findings if f.symptom is Symptom.DEAD_UNITS]
    assert [one.severity for one in told] == [Severity.INFO]


@pytest.mark.parametrize("frozen", [False, True])
def test_a_gate_that_is_fed_by_a_norm_which_starts_at_zero_is_not_dead(frozen: bool) -> None:
    class Excited(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm = nn.Linear(16, 32), nn.BatchNorm1d(32)
            self.squeeze, self.excite, self.head = nn.Linear(32, 16), nn.Linear(16, 32), nn.Linear(32, 4)
            nn.init.zeros_(self.norm.weight).requires_grad_(not frozen)
            nn.init.zeros_(self.norm.bias).requires_grad_(not frozen)
            nn.init.zeros_(self.squeeze.bias)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            y = self.norm(x)
            return self.head(x + y * torch.sigmoid(self.excite(torch.relu(self.squeeze(y)))))

    torch.manual_seed(0)
    assert any(f.symptom is Symptom.DEAD_UNITS for f in findings(Excited())) is frozen


@pytest.mark.parametrize("bias", [-2.0, -20.0])
def test_a_gate_may_close_but_not_so_far_that_nothing_opens_it(bias: float) -> None:
    class Highway(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.gate = nn.Linear(16, 32), nn.Linear(32, 32)
            self.inner, self.head = nn.Linear(32, 32), nn.Linear(32, 4)
            nn.init.constant_(self.gate.bias, bias)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            t = torch.sigmoid(self.gate(x))
            return self.head(t * torch.relu(self.inner(x)) + (1 - t) * x)

    torch.manual_seed(0)
    found = [f for f in findings(Highway()) if f.symptom is Symptom.SATURATED]
    assert [f.where[0] for f in found] == (["gate"] if bias == -20.0 else [])


def test_a_mean_teacher_is_left_in_peace_unless_an_optimizer_holds_it() -> None:
    class Taught(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student = mlp(2, nn.ReLU)
            self.teacher = copy.deepcopy(self.student)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                target = self.teacher(x).softmax(-1)
            return self.student(x) * (1 + target)

    model = Taught()
    assert verdict(model) is None
    assert verdict(model, optimizer=torch.optim.Adam(model.student.parameters())) is None
    both = torch.optim.Adam(model.parameters())
    assert verdict(model, optimizer=both) == (Symptom.DISCONNECTED, Cause.DETACHED_GRAPH)


def test_a_parameter_that_is_read_out_as_a_number_is_cut_off() -> None:
    class Tempered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.temperature = mlp(2, nn.ReLU), nn.Parameter(torch.tensor(0.5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x) * 2.0 ** self.temperature.item()

    (found,) = findings(Tempered())
    assert (found.symptom, found.where) == (Symptom.DISCONNECTED, ("temperature",))
    assert "item (" in found.message


def test_a_loss_that_starts_at_zero_by_chance_does_not_explode() -> None:
    data = batches(4)
    data[0] = (data[0][0], torch.full_like(data[0][1], -100))  # every label ignored: the loss of this batch is zero

    def loss_fn(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(batch[0]), batch[1], reduction="sum") / len(batch[0])

    model = mlp(2, nn.ReLU)
    assert verdict(model, loss_fn, data, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), steps=8) is None


def test_steps_that_run_away_because_of_one_huge_layer_blame_the_layer() -> None:
    model = mlp(5, nn.LeakyReLU, gain=1.4)
    with torch.no_grad():
        model[6].weight *= 5000.0  # type: ignore[operator]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    assert verdict(model, optimizer=optimizer) == (Symptom.EXPLODING, Cause.LARGE_WEIGHTS)
    twin = mlp(5, nn.LeakyReLU, gain=1.4)
    fast = torch.optim.SGD(twin.parameters(), lr=1000.0)
    assert verdict(twin, optimizer=fast) in {
        (Symptom.EXPLODING, Cause.LEARNING_RATE),
        (Symptom.NONFINITE, Cause.LEARNING_RATE),
    }


@pytest.mark.parametrize(("rate", "ill"), [(1e-12, True), (1e-2, False), (0.0, False)])
def test_a_learning_rate_below_the_precision_of_float32(rate: float, ill: bool) -> None:
    model = mlp(2, nn.ReLU)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    expected = (Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT) if ill else None
    assert verdict(model, optimizer=optimizer) == expected


def test_a_gradient_penalty_is_no_vanishing_gradient() -> None:
    def penalised(model: nn.Module, batch: Any) -> torch.Tensor:
        x = batch[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return model(batch[0]).mean() + 10 * (slope.norm(2, 1) - 1).square().mean()

    assert verdict(mlp(2, nn.LeakyReLU), penalised) is None


@pytest.mark.parametrize(
    ("constant", "of_batch", "cause"), [(math.inf, 1.0, Cause.UNSAFE_OP), (1.0, math.nan, Cause.INPUT_SCALE)]
)
def test_a_constant_that_is_not_finite_is_told_from_a_batch_that_is_not(
    constant: float, of_batch: float, cause: Cause
) -> None:
    """One over the count of a class that never occurs, times a zero."""
    weights = torch.tensor([1.0, 1.0, 1.0, constant])
    inputs, labels = torch.randn(8, 16), torch.arange(8) % 3

    def loss_fn(model: nn.Module, batch: object) -> torch.Tensor:
        log_p = torch.log_softmax(model(inputs), 1)
        return -(F.one_hot(labels, 4) * log_p * weights * batch[1]).sum(1).mean()  # type: ignore[index]

    (found,) = gradtrace.check(nn.Linear(16, 4), loss_fn, [(inputs, torch.tensor(of_batch))]).findings
    assert (found.symptom, found.cause) == (Symptom.NONFINITE, cause)
    assert ("a constant holds" in found.message) == (cause is Cause.UNSAFE_OP)


class Sign(torch.autograd.Function):
    """The sign; backward zero, or straight through."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, through: bool) -> torch.Tensor:
        ctx.through = through
        return torch.sign(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0] * float(ctx.through), None


@pytest.mark.parametrize("through", [False, True])
def test_a_function_of_one_s_own_that_returns_no_gradient_is_named(through: bool) -> None:
    class Binary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(16, 32), nn.Linear(32, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Sign.apply(self.b(torch.relu(self.a(x))), through)  # type: ignore[no-any-return, no-untyped-call]

    torch.manual_seed(0)
    found = findings(Binary())
    seen = [(f.symptom, f.cause, f.where) for f in found]
    assert seen == ([] if through else [(Symptom.DISCONNECTED, Cause.DETACHED_GRAPH, ("b",))])


class Spread(nn.Module):
    """A head whose exponential is the scale of its output."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.log_scale = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.log_scale(torch.relu(self.trunk(x))).exp()


@pytest.mark.parametrize(("of_inputs", "of_weights"), [(3000.0, 1.0), (1.0, 3000.0), (1.0, 1.0)])
def test_an_exponential_that_unscaled_inputs_overflow_is_the_inputs_fault(of_inputs: float, of_weights: float) -> None:
    model = Spread()
    with torch.no_grad():
        model.log_scale.weight.mul_(of_weights)
    found = findings(model, lambda m, batch: m(batch[0]).mean(), [(x * of_inputs, y) for x, y in batches()])
    cause = Cause.INPUT_SCALE if of_inputs > 1.0 else Cause.UNSAFE_OP
    assert [f.cause for f in found if f.symptom is Symptom.NONFINITE] == (
        [cause] if of_inputs * of_weights > 1.0 else []
    )
    assert ("The input has a root mean square" in " ".join(f.message for f in found)) is (of_inputs > 1.0)


@pytest.mark.parametrize(("is_row", "severity"), [(False, Severity.INFO), (True, Severity.CRITICAL)])
def test_saturated_calls_side_by_side_do_not_add_up(is_row: bool, severity: Severity) -> None:
    """A fifth of the slope is left in each: of six behind one another nothing, of six side by side a fifth."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.out = nn.Linear(1, 64), nn.Linear(64, 1)
            nn.init.normal_(self.into.weight, std=0.8)
            nn.init.normal_(self.out.weight, std=2.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not is_row:
                return sum((self.out(torch.tanh(self.into(x + 0.1 * i))) for i in range(6)), torch.zeros(()))
            for _ in range(6):
                x = self.out(torch.tanh(self.into(x)))
            return x

    torch.manual_seed(0)
    x = 10.0 * torch.randn(64, 1)
    found = gradtrace.check(Shared(), lambda model, x: model(x).square().mean(), [x, x]).findings
    (saturated,) = [finding for finding in found if finding.symptom is Symptom.SATURATED]
    assert saturated.severity is severity
