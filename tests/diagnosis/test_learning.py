"""What lies behind the last layer, and what is said only where it was seen: both sides of each threshold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradtrace
from gradtrace.diagnosis.layer import rms_to_fan_in
from gradtrace.errors import InputError
from gradtrace.measure.objective import reach
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom

from .networks import batches, cross_entropy, mlp


def findings(model: nn.Module, loss_fn: Any = cross_entropy, data: Any = None, **options: Any) -> list[Finding]:
    return list(gradtrace.check(model, loss_fn, data if data is not None else batches(), **options).findings)


def loud(found: list[Finding]) -> list[tuple[Symptom, Cause]]:
    return [(f.symptom, f.cause) for f in found if f.severity is not Severity.INFO]


@pytest.mark.parametrize(("target", "beyond"), [(1.0, 0.0), (1.5, 0.5), (-0.25, 0.25)])
def test_targets_outside_of_probabilities(target: float, beyond: float) -> None:
    targets = torch.tensor([[0.0], [target]])
    found = reach("binary_cross_entropy_with_logits", (torch.zeros(2, 1), targets), {})
    assert found is not None
    assert found[2].item() == pytest.approx(beyond)


def test_what_the_best_constant_gets() -> None:
    labels = torch.tensor([0, 0, 1, 1, -100])
    found = reach("cross_entropy", (torch.zeros(5, 3), labels), {})
    assert found is not None
    assert found[0].item() == pytest.approx(torch.tensor(2.0).log().item())
    t = torch.tensor([[0.0], [1.0], [5.0]])
    squared, absolute = reach("mse_loss", (t, t), {}), reach("l1_loss", (t, t), {})
    assert squared is not None
    assert absolute is not None
    assert squared[0].item() == pytest.approx(float(t.var(correction=0)))
    assert absolute[0].item() == pytest.approx(5.0 / 3)
    weighted = reach("cross_entropy", (torch.zeros(5, 3), labels), {"weight": torch.tensor([3.0, 1.0, 1.0])})
    assert weighted is not None
    assert weighted[0].item() == pytest.approx(torch.distributions.Bernoulli(0.75).entropy().item())
    one_number = {"weight": torch.ones(3), "reduction": "sum"}  # (of how many rows it is the sum, the weights tell)
    assert reach("cross_entropy", (torch.zeros(5, 3), labels), one_number) is None
    assert reach("mse_loss", (t, torch.zeros(0)), {}) is None


@pytest.mark.parametrize(("dtype", "times", "known"), [
    (torch.float32, 1.0, True), (torch.bfloat16, 1.0, True), (torch.float32, 1.1, False), (torch.float32, -1.0, False),
])  # fmt: skip
def test_of_log_probabilities_a_constant_gets_the_entropy_and_of_anything_else_nobody_knows(
    dtype: torch.dtype, times: float, known: bool
) -> None:
    output = times * torch.log_softmax(3.0 * torch.randn(6, 3, generator=torch.manual_seed(0)), 1).to(dtype)
    found = reach("nll_loss", (output, torch.tensor([0, 0, 0, 1, 1, 1])), {})
    assert found is not None
    assert found[0].item() == pytest.approx(known * torch.tensor(2.0).log().item())


@pytest.mark.parametrize(("top", "ill"), [(1.9, False), (2.1, True)])
def test_targets_that_a_sigmoid_does_not_reach(top: float, ill: bool) -> None:
    """Targets 0 and t, half each: the range leaves (t - 1)^2 / 2, and a constant t^2 / 4; half of it at t = 2."""
    torch.manual_seed(0)
    t = torch.tensor([0.0, top]).repeat(32).unsqueeze(1)
    model = nn.Sequential(nn.Linear(16, 1), nn.Sigmoid())
    data = [(x, t) for x, _ in batches()]
    found = loud(findings(model, lambda m, b: F.mse_loss(m(b[0]), b[1]), data))
    assert found == ([(Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION)] if ill else [])


@pytest.mark.parametrize(("offset", "ill"), [(0.0, False), (20.0, True)])
def test_a_loss_that_nothing_changes(offset: float, ill: bool) -> None:
    def clamped(model: nn.Module, batch: Any) -> Tensor:
        difference = (batch[0][:, :1] + offset - model(batch[0])).clamp(-1, 1)
        return difference.square().mean()

    torch.manual_seed(0)
    assert (loud(findings(mlp(1, nn.ReLU), clamped)) != []) is ill


def test_a_hinge_that_is_satisfied_is_no_flat_loss_and_one_class_is() -> None:
    torch.manual_seed(0)
    assert loud(findings(mlp(1, nn.ReLU), lambda m, b: F.relu(-100.0 + m(b[0])).mean())) == []
    alone = nn.Sequential(nn.Linear(16, 1))
    data = [(x, torch.zeros_like(y)) for x, y in batches()]
    assert loud(findings(alone, cross_entropy, data)) == [(Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION)]


@pytest.mark.parametrize(("scale", "severity"), [(8.0, Severity.INFO), (100.0, Severity.CRITICAL)])
def test_saturation_counts_from_a_decade_on(scale: float, severity: Severity) -> None:
    torch.manual_seed(0)
    data = [(x * scale, y) for x, y in batches()]
    (found,) = [f for f in findings(mlp(1, nn.Tanh, gain=1.0), data=data) if f.symptom is Symptom.SATURATED]
    assert found.severity is severity


@pytest.mark.parametrize(("std", "held"), [(0.01, True), (0.05, False)])
def test_only_a_head_near_zero_is_said_to_leave_it(std: float, held: bool) -> None:
    torch.manual_seed(0)
    model = mlp(2, nn.Tanh, gain=1.0)
    nn.init.normal_(model[-1].weight, std=std)  # type: ignore[arg-type]
    record = gradtrace.trace(model, cross_entropy, batches()[0])
    (size,) = rms_to_fan_in(next(op for op in record.ops if "4.weight" in op.weights), record)
    assert (size <= 0.1) is held
    notes = [f.message for f in findings(model) if f.symptom is Symptom.VANISHING]
    assert any("start at zero" in note for note in notes) is (held and bool(notes))


@pytest.mark.parametrize(("penalty", "drowned"), [(0.0, False), (1.0, True)])
def test_adam_follows_the_penalty_where_it_drowns_the_data(penalty: float, drowned: bool) -> None:
    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        return cross_entropy(model, batch) + penalty * model[0].weight.square().sum()  # type: ignore[union-attr, index, operator]

    torch.manual_seed(0)
    model = mlp(9, nn.ReLU)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    found = [f for f in findings(model, loss_fn, optimizer=adam) if f.symptom is Symptom.VANISHING]
    assert found
    assert any("a penalty's" in f.message for f in found) is drowned
    decayed = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=penalty)
    decoupled = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=penalty)
    told = [any("a penalty's" in f.message for f in findings(model, optimizer=o)) for o in (decayed, decoupled)]
    assert told == [drowned, False]


@pytest.mark.parametrize(("rate", "words"), [(3.0, "a tenth of it does not do this"), (1e4, "a tenth fails too")])
def test_a_tenth_of_the_rate_is_tried_before_the_rate_is_blamed(rate: float, words: str) -> None:
    torch.manual_seed(0)
    model = mlp(3, nn.ReLU, gain=1.4)
    found = findings(model, optimizer=torch.optim.SGD(model.parameters(), lr=rate), steps=10)
    rates = [f for f in found if f.cause is Cause.LEARNING_RATE]
    assert all(words in f.message for f in rates if "learning rate" in f.message)


@pytest.mark.parametrize("optimizer", [True, False])
def test_a_model_that_is_frozen_as_a_whole(optimizer: bool) -> None:
    model = mlp(1, nn.ReLU).requires_grad_(False)
    if not optimizer:
        with pytest.raises(InputError, match="the whole model is frozen"):
            findings(model)
        return
    found = findings(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    assert loud(found) == [(Symptom.DISCONNECTED, Cause.DETACHED_GRAPH)]


def test_the_module_that_fed_a_nan_in_the_root_s_own_code_is_named() -> None:
    class Sigma(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.sigma = nn.Linear(16, 4), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.mean(x) / torch.relu(self.sigma(x) - 100.0)

    (found,) = findings(Sigma())
    assert found.where == ("", "sigma")
    assert "comes from sigma" in found.message


@pytest.mark.parametrize(("towards", "trapped"), [(-1.0, False), (1.0, True)])
def test_examples_are_trapped_where_descent_leads_off_the_flat_side(towards: float, trapped: bool) -> None:
    """The output -1 is cut at 0: below, where the target is -1, nothing is to be gained; where it is 1, all is."""
    model = nn.Sequential(nn.Linear(16, 1), nn.ReLU())
    nn.init.zeros_(model[0].weight)  # type: ignore[arg-type]
    nn.init.constant_(model[0].bias, -1.0)  # type: ignore[arg-type]
    record = gradtrace.trace(model, lambda m, b: F.mse_loss(m(b[0]), torch.full((len(b[0]), 1), towards)), batches()[0])
    assert max(op.trapped_frac for op in record.ops) == float(trapped)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize(
    ("size", "embedded", "ill"), [(8000.0, False, True), (1.0, False, False), (8000.0, True, False)]
)
def test_a_recurrence_that_raw_data_saturate_is_told_of_the_data(
    kind: type[nn.RNNBase], size: float, embedded: bool, ill: bool
) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(4) if embedded else nn.Identity()
            self.memory, self.head = kind(4, 32, batch_first=True), nn.Linear(32, 2)  # type: ignore[call-arg]

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.memory(self.norm(x))[0][:, -1])  # type: ignore[no-any-return]

    torch.manual_seed(0)
    data = [(size * torch.randn(32, 20, 4), torch.randint(0, 2, (32,))) for _ in range(2)]
    causes = [cause for _, cause in loud(findings(Net(), cross_entropy, data))]
    assert (causes == [Cause.INPUT_SCALE]) is ill
    assert ill or Cause.INPUT_SCALE not in causes
