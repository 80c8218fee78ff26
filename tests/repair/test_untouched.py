"""The user's model, optimizer, batches and random state are bit for bit as before, whatever becomes of a change."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

import gradtrace
from gradtrace.casebook import CASES
from gradtrace.casebook.case import Setup
from gradtrace.casebook.tasks import cross_entropy, squared_error
from gradtrace.checkup.batches import summed_over
from gradtrace.errors import InputError
from gradtrace.records.repair import Role, Trial
from gradtrace.repair.applying import apply_changes
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.changes.table import KINDS
from gradtrace.repair.situation import Situation
from gradtrace.repair.training import Plan, train
from gradtrace.repair.twin import RefusalError

_spec = importlib.util.spec_from_file_location("snapshot", Path(__file__).parent / "snapshot.py")
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
snapshot, assert_same = _module.snapshot, _module.assert_same

CASE_OF = {
    "unsafe": "log_zero", "connect": "partial_optimizer", "loss": "sigmoid_mse", "formats": "half_underflow",
    "features": "raw_features", "scale": "raw_features", "recurrence": "lstm_forgets",
    "transformer": "attention_entropy_collapse",
    "activation": "functional_sigmoid", "initialisation": "small_std", "norm": "small_std", "skip": "small_std",
    "rate": "rate_regression", "warmup": "rate_regression", "clipping": "rate_regression", "eps": "he_start",
    "placebo": "small_std", "residual": "residual_growth", "symmetry": "he_start",
    "output": "targets_out_of_range", "embedding": "unscaled_attention", "log_space": "log_zero",
    "neighbours": "neighbours", "likelihood": "minimax_game", "group_norm": "batchnorm_mlp",
    "stable": "exp_overflow", "objective": "counts_as_probabilities",
    "decay": "decayed", "lone_norm": "one_entry",
}  # fmt: skip
"""Kind -> a case for which it proposes itself."""


def graph():
    """Sums over 40 neighbours, in six layers."""
    torch.manual_seed(0)
    sources = torch.randint(0, 64, (64 * 40,))
    model = torch.nn.Sequential(*(Sums(sources) for _ in range(6)), torch.nn.Linear(16, 4))
    return Setup(model, cross_entropy, [(torch.randn(64, 16), torch.randint(4, (64,)))])


def decayed():
    """Weight decay far stronger than the loss."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=3.0)
    batches = [(torch.randn(64, 16), torch.randint(4, (64,))) for _ in range(2)]
    return Setup(model, cross_entropy, batches, optimizer)


def one_entry():
    """A layer norm behind a single output."""
    torch.manual_seed(0)
    layers = torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1), torch.nn.LayerNorm(1)
    return Setup(torch.nn.Sequential(*layers), squared_error, [(x, x[:, :1]) for x in torch.randn(2, 64, 16)])


MADE = {"neighbours": graph, "decayed": decayed, "one_entry": one_entry}


class Sums(torch.nn.Linear):
    """One of them."""

    def __init__(self, sources):
        super().__init__(16, 16)
        self.sources, self.targets = sources, torch.arange(64).repeat_interleave(40)

    def forward(self, x):
        h = super().forward(x)
        return torch.relu(torch.zeros_like(h).index_add(0, self.targets, h[self.sources]))


class Divided:
    """A loss below every eps."""

    def __init__(self, loss_fn):
        self.loss_fn = loss_fn

    def __call__(self, model, batch):
        return 1e-15 * self.loss_fn(model, batch)


@cache
def _proposed(case_name):
    """A set-up that has been trained for a step, with gradients, hooks and an optimizer's state; and its situation."""
    setup = MADE[case_name]() if case_name in MADE else CASES[case_name].build()
    if case_name == CASE_OF["eps"]:
        setup = replace(setup, loss_fn=Divided(setup.loss_fn), optimizer=None)
    if case_name == CASE_OF["symmetry"]:
        for parameter in setup.model.parameters():
            torch.nn.init.constant_(parameter, 0.05)
    if case_name == CASE_OF["embedding"]:
        with torch.no_grad():
            setup.model.embedding.weight.mul_(30.0)
    optimizer: torch.optim.Optimizer = setup.optimizer or torch.optim.Adam(setup.model.parameters(), lr=1e-4)
    setup = replace(setup, optimizer=optimizer)
    diagnosis = gradtrace.check(setup.model, setup.loss_fn, setup.batches, optimizer=optimizer)
    setup.model.register_forward_hook(_nothing)
    for parameter in setup.model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    summed = summed_over(setup.model, setup.loss_fn, setup.batches[0])
    situation = Situation(setup.model, setup.loss_fn, setup.batches, [optimizer], diagnosis, summed)
    return setup, situation


def _nothing(module, args, output):
    return None


def _change(kind):
    setup, situation = _proposed(CASE_OF[kind])
    changes = KINDS[kind].propose(situation)
    assert changes, f"{kind} proposes nothing for {CASE_OF[kind]}"
    return setup, situation, changes[0]


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_change_that_is_applied_and_trained(kind):
    setup, situation, change = _change(kind)
    before = snapshot(setup)
    model, _, optimizer = Trial("", Role.CANDIDATE, (change,)).apply(setup.model, setup.loss_fn, setup.optimizer)
    assert model is not setup.model
    assert optimizer is not setup.optimizer
    twin = situation.twin(1)
    apply_changes([change], twin)
    outcome = train(twin, Plan(setup.batches, 2), 1)
    assert outcome.seed == 1
    assert_same(snapshot(setup), before)


@pytest.mark.parametrize("kind", KINDS)
def test_after_every_change_that_is_proposed(kind):
    setup, situation = _proposed(CASE_OF[kind])
    before = snapshot(setup)
    for change in KINDS[kind].propose(situation):
        Trial("", Role.CANDIDATE, (change,)).apply(setup.model, setup.loss_fn, setup.optimizer)
        assert_same(snapshot(setup), before)


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_refusal(kind, monkeypatch):
    setup, _, change = _change(kind)

    def refuse(change, twin):
        KINDS_OF[kind].apply(change, twin)
        raise RefusalError("it does not fit")

    KINDS_OF = {kind: KINDS[kind]}
    monkeypatch.setitem(KINDS, kind, Kind(KINDS[kind].propose, refuse))
    before = snapshot(setup)
    with pytest.raises(InputError, match="does not fit"):
        Trial("", Role.CANDIDATE, (change,)).apply(setup.model, setup.loss_fn, setup.optimizer)
    assert_same(snapshot(setup), before)


@pytest.mark.parametrize("kind", KINDS)
def test_after_an_exception_in_the_middle(kind, monkeypatch):
    setup, _, change = _change(kind)
    real = KINDS[kind]

    def break_down(change, twin):
        real.apply(change, twin)
        torch.rand(3)  # and the global generator has moved
        raise RuntimeError("out of memory")

    monkeypatch.setitem(KINDS, kind, Kind(real.propose, break_down))
    before = snapshot(setup)
    with pytest.raises(InputError, match="out of memory"):
        Trial("", Role.CANDIDATE, (change,)).apply(setup.model, setup.loss_fn, setup.optimizer)
    assert_same(snapshot(setup), before)


def test_after_a_training_that_breaks():
    setup, situation = _proposed("small_std")
    before = snapshot(setup)
    twin = situation.twin()
    calls = []

    def loss_fn(model, batch):
        calls.append(1)
        if len(calls) > 6:
            raise ValueError("in the middle")
        return setup.loss_fn(model, batch)

    twin.loss_fn = loss_fn
    with pytest.raises(ValueError, match="in the middle"):
        train(twin, Plan(setup.batches, 8), 0)
    assert_same(snapshot(setup), before)


def test_shared_weights_stay_shared_and_hooks_stay():
    shared = torch.nn.Linear(8, 8)
    model = torch.nn.Sequential(shared, torch.nn.Sigmoid(), shared, torch.nn.Sigmoid(), torch.nn.Linear(8, 2)).double()
    model.eval()
    seen = []
    model[1].register_forward_hook(lambda module, args, output: seen.append(type(module).__name__))
    batch = (torch.randn(16, 8, dtype=torch.float64), torch.randint(2, (16,)))
    change = _change("activation")[2]
    change = replace(change, where=("1", "3"), edits=(), draws=(), words=(("function", "sigmoid"), ("target", "GELU")))

    def loss_fn(model, batch):
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])

    new, _, _ = Trial("", Role.CANDIDATE, (change,)).apply(model, loss_fn)
    assert new[0] is new[2]
    assert isinstance(new[1], torch.nn.GELU)
    assert not new[1].training
    assert new[0].weight.dtype == torch.float64
    loss_fn(new, batch)
    assert seen == ["GELU"]
