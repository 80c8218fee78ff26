"""-log D in place of log(1 - D), which a generator cannot get down from where its fakes are told apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

import gradtrace
from gradtrace.casebook import CASES
from gradtrace.casebook.repaired import outcome
from gradtrace.repair.changes import likelihood
from gradtrace.repair.situation import Situation


def of_fakes(model, noise):
    return model.discriminator(model.generator(noise))


LOSSES = {
    "log": lambda model, noise: torch.log(1.0 - of_fakes(model, noise)).mean(),
    "log1p": lambda model, noise: torch.log1p(-of_fakes(model, noise)).mean(),
    "entropy": lambda model, noise: -F.binary_cross_entropy(fakes := of_fakes(model, noise), torch.zeros_like(fakes)),
}


def optimizers(setup):
    return [setup.optimizer]


def proposed(loss_fn, setup):
    diagnosis = gradtrace.check(setup.model, loss_fn, setup.batches, optimizer=setup.optimizer)
    return likelihood.KIND.propose(Situation(setup.model, loss_fn, setup.batches, optimizers(setup), diagnosis))


@pytest.mark.parametrize("name", LOSSES)
def test_its_gradient_is_that_of_what_is_wanted_and_the_measure_stays(name):
    setup = CASES["minimax_game"].build()
    (change,) = proposed(LOSSES[name], setup)
    here = Situation(setup.model, LOSSES[name], setup.batches, optimizers(setup), None)
    twin = here.twin()
    likelihood.KIND.apply(change, twin)
    twin.training_loss_fn(twin.model, setup.batches[0]).backward()
    fakes = of_fakes(setup.model, setup.batches[0])
    F.binary_cross_entropy(fakes, torch.ones_like(fakes)).backward()
    tried, wanted = (model.get_parameter("generator.head.weight").grad for model in (twin.model, setup.model))
    torch.testing.assert_close(tried, wanted, rtol=1e-2, atol=1e-4)  # of 1 - D much is rounded
    with torch.no_grad():
        measured, own = twin.score(setup.batches[0]), LOSSES[name](setup.model, setup.batches[0])
    torch.testing.assert_close(measured, own, rtol=1e-3, atol=0.0)


def test_the_measure_has_an_end_where_the_other_probability_is_rounded_to_nought():
    setup = CASES["minimax_game"].build()
    (change,) = proposed(LOSSES["log"], setup)
    twin = Situation(setup.model, LOSSES["log"], setup.batches, optimizers(setup), None).twin()
    likelihood.KIND.apply(change, twin)
    torch.nn.init.constant_(twin.model["discriminator"].head.bias, 50.0)
    with torch.no_grad():
        assert float(LOSSES["log"](twin.model, setup.batches[0])) == -math.inf
        assert float(twin.score(setup.batches[0])) == pytest.approx(-24 * math.log(2))


def test_the_minimax_game_is_restored_by_what_comes_first():
    case = CASES["minimax_game"]
    setup = case.build()
    repair = gradtrace.fix(setup.model, setup.loss_fn, setup.batches, setup.optimizer, steps=60, time_budget_s=3600)
    told = outcome(case, repair)
    assert told.by_first
    assert "-log D" in told.recommended
    assert not told.placebo


@pytest.mark.parametrize(("name", "argument"), [("log", "1.0 - d"), ("log1p", "-d")])
def test_the_patch_is_what_was_tried(name, argument):
    (change,) = proposed(LOSSES[name], CASES["minimax_game"].build())
    (edit,) = change.edits
    d = torch.tensor([1e-4, 0.3, 0.9])
    torch.testing.assert_close(eval(edit.text.replace("{x}", argument), {"d": d}), -d.log(), rtol=1e-3, atol=1e-6)


def test_the_game_that_does_not_saturate_is_left_alone():
    setup = CASES["not_saturating_game"].build()
    assert not proposed(setup.loss_fn, setup)
