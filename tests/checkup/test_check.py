"""`check` as a whole: the user's model stays as it was, and bad input is one sentence."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradtrace
from gradtrace.checkup.batches import take, take_more
from gradtrace.checkup.trial import run_trial
from gradtrace.errors import InputError
from gradtrace.records.vocabulary import Severity, Symptom


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(16, 3))


def data(count: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(32, 8), torch.randint(0, 3, (32,))) for _ in range(count)]


def cross_entropy(model: nn.Module, batch: Any) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Any]) -> list[float]:
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        loss = cross_entropy(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("steps", [0, 3])
def test_training_goes_on_as_if_never_checked(steps: int) -> None:
    results = []
    for checked in (False, True):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        torch.manual_seed(2)
        losses = train(model, optimizer, data(2))
        if checked:
            gradtrace.check(model, cross_entropy, data(), optimizer=optimizer, steps=steps)
        losses += train(model, optimizer, data(4))
        results.append((losses, model.state_dict(), optimizer.state_dict(), torch.get_rng_state()))
    (losses, weights, state, random), (losses2, weights2, state2, random2) = results
    assert losses == losses2
    assert all(torch.equal(weights[name], weights2[name]) for name in weights)
    assert str(state) == str(state2)
    assert torch.equal(random, random2)


def test_gradients_of_the_user_are_the_same_objects_afterwards() -> None:
    model = network()
    cross_entropy(model, data()[0]).backward()
    before = {name: (p.grad, p.grad.clone()) for name, p in model.named_parameters() if p.grad is not None}
    gradtrace.check(model, cross_entropy, data())
    for name, parameter in model.named_parameters():
        assert parameter.grad is before[name][0]
        assert torch.equal(parameter.grad, before[name][1])  # type: ignore[arg-type]


def test_steps_find_what_only_training_brings_about() -> None:
    model = network()
    sane, wild = (torch.optim.SGD(model.parameters(), lr=rate) for rate in (0.05, 1e4))
    diagnosis = gradtrace.check(model, cross_entropy, data(), optimizer=sane, steps=5)
    assert diagnosis.healthy
    assert len(diagnosis.losses) == 6
    assert not gradtrace.check(model, cross_entropy, data(), optimizer=wild, steps=5).healthy


def test_nan_in_the_third_step_is_named_with_its_op() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 3)
            self.register_buffer("seen", torch.zeros(()))

        seen: torch.Tensor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.seen += 1
            return self.layer(x) + torch.log((4.0 - self.seen).clamp_min(0.0)).clamp_max(0.0) * self.layer(x)

    model = Counts()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    diagnosis = gradtrace.check(model, cross_entropy, data(), optimizer=optimizer, steps=8)
    finding = diagnosis.findings[0]
    assert finding.symptom is Symptom.NONFINITE
    assert finding.step == 3
    assert "log" in finding.message


def test_several_optimizers_and_accumulation() -> None:
    model = network()
    first = torch.optim.SGD(model[0].parameters(), lr=0.05)
    second = torch.optim.Adam([p for layer in list(model)[1:] for p in layer.parameters()], lr=1e-3)
    diagnosis = gradtrace.check(model, cross_entropy, data(), optimizer=[first, second], steps=2, accumulate=2)
    assert diagnosis.healthy
    partly = gradtrace.check(model, cross_entropy, data(), optimizer=first)
    assert [f.severity for f in partly.findings if f.symptom is Symptom.DISCONNECTED] == [Severity.WARNING]


def test_lbfgs_and_a_loss_that_reaches_for_the_model_itself() -> None:
    model = network()
    model.eval()
    lbfgs = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3)
    diagnosis = gradtrace.check(model, cross_entropy, data(1), optimizer=lbfgs, steps=2)
    assert diagnosis.losses[-1] < diagnosis.losses[0]
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    diagnosis = gradtrace.check(model, lambda _, batch: cross_entropy(model, batch), data(), optimizer=sgd)
    assert any("does not use the model that it is given" in text for text in diagnosis.refusals)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batches": []}, "no batches"),
        ({"batches": [(torch.empty(0, 8), torch.empty(0, dtype=torch.long))]}, "batch is empty"),
        ({"batches": 3}, "must be an iterable"),
        ({"steps": 2}, "steps needs an optimizer"),
        ({"steps": -1}, "steps must be 0 or more"),
        ({"optimizer": "sgd"}, "must be a torch.optim.Optimizer"),
        ({"model": nn.ReLU()}, "no parameters"),
        ({"model": network().requires_grad_(False)}, "no parameter requires a gradient"),
        ({"model": network().to("meta")}, "meta device"),
        ({"model": "resnet"}, "must be a torch.nn.Module"),
        ({"loss_fn": lambda m, b: m(b[0])}, "must return a scalar"),
        ({"loss_fn": lambda m, b: cross_entropy(m, b).item()}, "must return a scalar tensor"),
        ({"loss_fn": lambda m, b: cross_entropy(m, b).detach()}, "the loss has no gradient"),
        ({"loss_fn": lambda m, b: m(b[0][:, :3])}, "loss_fn.* raised RuntimeError"),
        ({"loss_fn": lambda m, b: [loss := cross_entropy(m, b), loss.backward()][0]}, "called backward"),
    ],
)
def test_bad_input_is_one_sentence_and_changes_nothing(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"model": network(), "loss_fn": cross_entropy, "batches": data(), **change}
    model = given["model"]
    before = copy.deepcopy(model)
    with pytest.raises(InputError, match=message) as caught:
        gradtrace.check(given.pop("model"), given.pop("loss_fn"), given.pop("batches"), **given)
    assert "\n" not in str(caught.value)
    if isinstance(model, nn.Module) and not any(p.is_meta for p in model.parameters()):
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before.state_dict()[name])
        assert all(p.grad is None for p in model.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_more_batches_are_of_one_pass_and_none_is_lost() -> None:
    batches = [torch.ones(2) * i for i in range(5)]
    once = iter(batches)
    taken = take(once, 2)
    for given in (batches, once):
        more = take_more(given, taken, 4)
        assert [int(batch[0]) for batch in more] == [0, 1, 2, 3]
    assert [int(batch[0]) for batch in take_more(once, more, 9)] == [0, 1, 2, 3, 4]
    assert take_more(batches[0], taken, 9) is taken


def test_more_batches_end_where_the_next_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        yield from (torch.ones(2), torch.ones(2), torch.ones(2))
        raise OSError("a file is gone")

    once = broken()
    assert len(take_more(once, take(once, 2), 9)) == 3
    several = [torch.ones(2), torch.ones(2), torch.ones(2), torch.ones(0, 2), torch.ones(2)]
    assert len(take_more(several, several[:2], 9)) == 3
    monkeypatch.setattr("gradtrace.checkup.batches.MOST_BYTES", 16)
    assert len(take_more(several, several[:1], 9)) == 2


def test_a_last_batch_of_one_example_ends_no_check() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.norm, self.head = nn.RNN(2, 8, batch_first=True), nn.BatchNorm1d(8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(self.rnn(x)[0][:, -1]))

    torch.manual_seed(0)
    batches = [(torch.randn(n, 60, 2), torch.randint(0, 2, (n,))) for n in (8, 8, 8, 8, 1)]
    found = gradtrace.check(Normed(), lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), batches).findings
    assert any(f.symptom is Symptom.VANISHING for f in found)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_nan_of_drawn_numbers_is_named_with_its_op(accumulate: int) -> None:
    """The trace that explains a step draws what the step drew: with other numbers it may well be finite."""

    def weighted(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        time = torch.randint(0, 6, (2,))  # a diffusion's: nothing is left of the noise at 0
        return (model(x).square().mean(1) * (1.0 / time)).mean()

    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    batches = [torch.randn(2, 4) for _ in range(20)]
    sgd = torch.optim.SGD(model.parameters(), lr=1e-4)
    seen = 0
    for seed in range(6):
        torch.manual_seed(seed)
        found = gradtrace.check(model, weighted, batches, optimizer=sgd, steps=20 // accumulate, accumulate=accumulate)
        for finding in found.findings:
            if finding.symptom is Symptom.NONFINITE:
                seen += finding.step is not None
                assert "could not be told" not in finding.message
                assert ": div in the loss" in finding.message
    assert seen


def test_a_copy_is_trained_whole_where_a_module_keeps_a_function_of_its_layers() -> None:
    class Block(nn.Module):  # as minGPT's
        def __init__(self) -> None:
            super().__init__()
            self.mlp = nn.ModuleDict({"first": nn.Linear(4, 8), "second": nn.Linear(8, 4)})
            parts = self.mlp
            self.mlpf = lambda x: parts["second"](torch.relu(parts["first"](x)))
            self.several = [lambda x: parts["first"](x).sum(), torch.relu]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.mlpf(x) + 0.01 * self.several[0](x)

    torch.manual_seed(0)
    model = nn.Sequential(Block(), nn.Linear(4, 2))
    kept = copy.deepcopy(model.state_dict())
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    batches = [(torch.randn(16, 4), torch.randint(0, 2, (16,))) for _ in range(2)]
    training = run_trial(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), batches, [adam], steps=3)
    assert all(update.update_norm > 0.0 for update in training.updates)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
