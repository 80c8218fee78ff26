"""`fix`: what is recommended on an ill network, nothing on a healthy one, and one sentence for every bad input."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.errors import InputError
from gradtrace.records.repair import Role, Share, Shares, Trial
from gradtrace.records.vocabulary import Cause, Factor
from gradtrace.repair.correction import with_shares
from gradtrace.repair.pace import FEWEST_STEPS, FINALISTS, MOST_STEPS, Pace, choose_pace


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def batches(count=4, size=64):
    generator = torch.Generator().manual_seed(5)
    return [(x, (x[:, 0] > 0).long()) for x in torch.randn(count, size, 16, generator=generator)]


def network(activation=nn.Sigmoid, depth=6):
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(16, 16), activation())]
    return nn.Sequential(*layers, nn.Linear(16, 2))


@pytest.fixture(scope="module")
def repair():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return gradtrace.fix(
        model, cross_entropy, batches(2), optimizer, steps=20, time_budget_s=3600, held_out=batches(1, 32)
    )


def test_what_is_recommended_trains_and_the_placebo_does_not(repair):
    assert repair.best is not None
    assert repair.best.end < 0.7 * repair.original.end
    placebos = [trial for trial in repair.trials if trial.role is Role.PLACEBO]
    assert placebos
    assert not any(trial.proven for trial in placebos)
    assert all(trial.verdict == "helps no more than chance" for trial in placebos)
    for trial in repair.trials:
        if trial.proven:
            assert trial.against_original.high < 0.0
            assert trial.against_placebo.high < 0.0
            assert len(trial.outcomes) == 3
    assert [outcome.seed for outcome in repair.best.confirmation] == [3, 4, 5, 6, 7]
    assert repair.best.confirmed.better


def test_trials_are_paired(repair):
    whole = [trial for trial in repair.trials if trial.whole]
    assert {tuple(o.seed for o in trial.outcomes) for trial in whole} == {(0, 1, 2)}
    starts = {outcome.start for outcome in repair.original.outcomes}
    assert len(starts) == 1  # the same weights, measured on the same batches


def test_prediction_and_measurement_of_moved_decades_stand_side_by_side(repair):
    told = [t for t in repair.candidates if t.predicted_decades is not None and t.moved_decades is not None]
    assert told
    assert all(abs(t.predicted_decades - t.moved_decades) < 1.0 for t in told if t.changes[0].kind == "activation")


def test_the_change_that_was_tried_is_the_one_that_is_applied(repair):
    model, trial = network(), next(t for t in repair.candidates if t.changes[0].kind == "activation")
    one, _, _ = trial.apply(model, cross_entropy, seed=0)
    two, _, _ = trial.apply(model, cross_entropy, seed=0)
    three, _, _ = trial.apply(model, cross_entropy, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), three.parameters(), strict=True))


def test_the_code_does_what_the_trial_did(repair):
    trial = next(t for t in repair.candidates if t.changes[0].kind == "activation" and len(t.changes) == 1)
    model = network()
    exec(trial.code, {"torch": torch, "model": model})
    changed, _, _ = trial.apply(network(), cross_entropy)
    assert [type(m) for m in model.modules()] == [type(m) for m in changed.modules()]
    for ours, theirs in zip(model.parameters(), changed.parameters(), strict=True):
        if ours.dim() > 1:
            assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.35)


def test_it_is_shown_saved_and_loaded(repair, tmp_path):
    console = Console(file=io.StringIO(), width=100)
    repair.show(console)
    text = console.file.getvalue()
    assert "Recommended:" in text
    assert "on 5 seeds that had no part in choosing it" in " ".join(text.split())
    assert "the activation explains" in text
    assert "Placebo" in text
    repair.save(tmp_path / "repair.json.gz")
    assert gradtrace.load(tmp_path / "repair.json.gz") == repair
    document = json.loads(repair.to_json())
    assert document["best"] == repair.best.title
    assert document["shares"]["remaining"] == repair.shares.remaining
    assert "Recommended" in repair._repr_html_()


def test_a_healthy_network_is_left_alone():
    told = gradtrace.fix(network(nn.ReLU, 2), cross_entropy, batches())
    assert told.diagnosis.healthy
    assert told.trials == ()
    assert told.best is None


def test_the_very_rate_that_is_recommended_is_tried():
    model = network(nn.Tanh, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=300.0)
    repair = gradtrace.fix(model, cross_entropy, batches(), optimizer, steps=40, time_budget_s=3600)
    best = repair.best
    assert best is not None
    rates = [change for change in best.changes if change.kind == "rate"]
    assert rates
    _, _, changed = best.apply(model, cross_entropy, optimizer)
    assert changed.param_groups[0]["lr"] == pytest.approx(rates[0].number("value"))
    assert optimizer.param_groups[0]["lr"] == 300.0


def test_no_optimizer_is_named():
    repair = gradtrace.fix(network(depth=6), cross_entropy, batches(), steps=4, seeds=2, time_budget_s=3600)
    assert "since none was given" in repair.optimizer


def test_too_little_time_is_said():
    repair = gradtrace.fix(network(depth=6), cross_entropy, batches(), time_budget_s=1e-3)
    assert repair.best is None
    assert any("time did not suffice" in note for note in repair.notes)


NUMBERS = 8, 1, 3


def test_as_many_steps_as_fit():
    assert choose_pace(NUMBERS, 1e-6, 60.0) == Pace(MOST_STEPS)
    some = choose_pace(NUMBERS, 0.02, 60.0)
    assert some == Pace(int(60.0 / (0.02 * (16 / 4 + 6 * 3 + 3 * 5) * 1.2)))
    assert FEWEST_STEPS < some.steps < MOST_STEPS
    assert some.cost_s(NUMBERS, 0.02) <= 60.0 < Pace(some.steps + 1).cost_s(NUMBERS, 0.02)
    assert some.left_out == ()


def test_where_all_does_not_fit_finalists_are_left_out_and_then_the_second_run():
    whole = Pace(FEWEST_STEPS).cost_s(NUMBERS, 1.0)
    fewer = choose_pace(NUMBERS, 1.0, 0.99 * whole)
    assert (fewer.finalists, fewer.confirms) == (2, True)
    assert fewer.left_out == (f"there was time for 2 finalists, in place of {FINALISTS}",)
    least = choose_pace(NUMBERS, 1.0, 1.0)
    assert (least.steps, least.finalists, least.confirms) == (FEWEST_STEPS, 1, False)
    assert list(least.seeds(3)) == [1, 2, 3]  # seed 0 chose
    assert "one finalist" in least.left_out[0]


def test_steps_that_are_given_stay():
    assert choose_pace(NUMBERS, 1.0, 1.0, steps=77).steps == 77
    assert choose_pace(NUMBERS, 1e-9, 1e9, steps=7) == Pace(7)


def test_the_way_to_the_first_step_counts():
    assert choose_pace(NUMBERS, 1e-6, 60.0, start_s=1.0) == Pace(MOST_STEPS)
    assert choose_pace(NUMBERS, 1e-6, 44.0, start_s=1.0).finalists == 2


class Uncopied(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = network(depth=6)

    def forward(self, x):
        return self.inner(x)

    def __deepcopy__(self, memo):
        raise TypeError("a handle cannot be copied")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: gradtrace.fix(network(), cross_entropy, batches(), seeds=1), "seeds must be 2 or more"),
        (lambda: gradtrace.fix(network(), cross_entropy, batches(), steps=0), "steps must be 1 or more"),
        (lambda: gradtrace.fix(network(), cross_entropy, batches(), time_budget_s=0), "time_budget_s must be above 0"),
        (lambda: gradtrace.fix(network(), cross_entropy, []), "no batches"),
        (lambda: gradtrace.fix(network(), cross_entropy, batches(), "SGD"), "must be a torch.optim.Optimizer"),
        (lambda: gradtrace.fix(Uncopied(), cross_entropy, batches(), steps=2), "module .the model. cannot be copied"),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence) as told:
        call()
    assert "\n" not in str(told.value)


def test_a_loss_that_reaches_for_another_model_is_told():
    model = network()

    def loss_fn(_model, batch):
        return cross_entropy(model, batch)

    with pytest.raises(InputError, match="does not use the model that it is given"):
        gradtrace.fix(model, loss_fn, batches(), steps=2)


def test_shares_that_contradict_the_cause_correct_it(repair):
    finding = replace(repair.diagnosis.findings[0], cause=Cause.SMALL_WEIGHTS)
    diagnosis = replace(repair.diagnosis, findings=(finding,))
    shares = Shares(-10.0, (Share(Factor.ACTIVATION, -9.0), Share(Factor.WEIGHT, -1.0)), 0.0)
    told = with_shares(diagnosis, shares).findings[0]
    assert told.cause is Cause.ACTIVATION_DERIVATIVE
    assert "Corrected" in told.message
    agreeing = with_shares(diagnosis, Shares(-10.0, (Share(Factor.WEIGHT, -9.0), Share(Factor.ACTIVATION, -1.0)), 0.0))
    assert agreeing.findings[0].cause is Cause.SMALL_WEIGHTS
    assert "Corrected" not in agreeing.findings[0].message


def test_an_eps_above_every_gradient_is_lowered_and_the_steps_count_again():
    from gradtrace.repair.changes.eps import KIND
    from gradtrace.repair.situation import Situation

    def tiny(model, batch):
        return 1e-13 * cross_entropy(model, batch)

    model = network(nn.ReLU, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    diagnosis = gradtrace.check(model, tiny, batches(), optimizer=optimizer)
    (change,) = KIND.propose(Situation(model, tiny, batches(), [optimizer], diagnosis))
    largest = max(p.gradient.rms for p in diagnosis.traces[0].parameters if p.gradient is not None)
    assert largest / 20.0 < change.number("value") < largest / 5.0
    trial = Trial(change.title, Role.CANDIDATE, (change,))
    _, _, changed = trial.apply(model, tiny, optimizer)
    assert changed.param_groups[0]["eps"] == change.number("value")
    assert optimizer.param_groups[0]["eps"] == 1e-8
    healthy = gradtrace.check(model, cross_entropy, batches(), optimizer=optimizer)
    assert KIND.propose(Situation(model, cross_entropy, batches(), [optimizer], healthy)) == []


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(6))
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        for layer in self.layers:
            x = torch.sigmoid(layer(x))
        return self.head(x)


def test_weights_are_drawn_for_what_a_call_has_become_and_not_for_what_it_was():
    from gradtrace.repair.changes.activation import KIND
    from gradtrace.repair.situation import Situation

    torch.manual_seed(0)
    model = Functional()
    diagnosis = gradtrace.check(model, cross_entropy, batches())
    changes = KIND.propose(Situation(model, cross_entropy, batches(), [], diagnosis))
    relu = next(change for change in changes if change.word("target") == "ReLU")
    gains = [draw.value for draw in relu.draws if draw.how == "gaussian" and draw.name.startswith("layers.")]
    assert gains[1:] == pytest.approx([2**0.5] * 5, rel=0.1)  # He; a sigmoid needs more than four
    assert "forward" not in vars(model)
