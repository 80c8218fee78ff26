"""Thresholds that a project may move: either way, only with a reason, and never silently."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.diagnosis.moved import MOVABLE, Moved, limits_of, weigh, weighed
from gradtrace.errors import InputError
from gradtrace.records.finding import Diagnosis, Evidence, Finding
from gradtrace.records.storage import to_json
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.report.html.page import render
from gradtrace.report.notebook import to_html
from gradtrace.testing import GradientAssertionError, assert_gradients_flow

WHY = "we like it"


def finding(symptom, *evidence, severity=Severity.CRITICAL):
    return Finding(symptom, Cause.SMALL_WEIGHTS, ("a",), severity, "It is.", tuple(Evidence(*one) for one in evidence))


def moved(name, factor=1.2):
    return Moved(name, MOVABLE[name].usual * factor, WHY)


def entry(value):
    return {"value": value, "reason": WHY}


@pytest.fixture(scope="module")
def sigmoids():
    torch.manual_seed(0)
    model = nn.Sequential(*[m for _ in range(5) for m in (nn.Linear(16, 16), nn.Sigmoid())], nn.Linear(16, 1))
    return gradtrace.check(model, lambda m, batch: m(batch).square().mean(), [torch.randn(32, 16)])


def test_what_is_below_is_worth_knowing_and_says_why(sigmoids):
    (found,) = (f for f in sigmoids.findings if f.symptom is Symptom.VANISHING)
    both = [abs(one.value) for one in found.evidence if one.name.startswith("early against late (")]
    assert len(both) == 2
    assert not sigmoids.healthy
    above, below = (weighed(sigmoids, [Moved("vanishing-decades", min(both) + d, WHY)]) for d in (0.01, -0.01))
    assert above.healthy
    assert above.findings[-1].message.endswith("and 2 elsewhere: we like it")
    assert below.findings == sigmoids.findings
    assert below.moved == (f"vanishing-decades is {min(both) - 0.01:g} decades here, and 2 elsewhere: we like it",)


def test_it_is_told_wherever_the_diagnosis_is(sigmoids):
    told = weighed(sigmoids, [moved("dead-fraction")])
    for text in (str(told), to_html(told), render(told), to_json(told)):
        assert "dead-fraction is 0.9 of the units here, and 0.75 elsewhere: we like it" in " ".join(text.split())
    assert "Thresholds moved" not in str(sigmoids)


@pytest.mark.parametrize("name", list(MOVABLE))
def test_every_one_covers_its_own_symptom_alone(name):
    movable, cover = MOVABLE[name], moved(name)
    number = (movable.evidence[0], movable.usual * 1.1)
    assert cover.covers(finding(movable.symptom, number))
    assert cover.covers(finding(movable.symptom, (movable.evidence[0], -number[1])))
    assert not cover.covers(finding(Symptom.NONFINITE, number))
    assert not cover.covers(finding(movable.symptom, ("something else", 0.0)))
    assert not cover.covers(finding(movable.symptom, (movable.evidence[0], math.inf)))
    assert not cover.covers(finding(movable.symptom))


def test_the_rest_keeps_its_place_and_severity():
    worse = finding(Symptom.NONFINITE, ("saturated", 0.55))
    mild = finding(Symptom.SATURATED, ("saturated", 0.55))
    info = finding(Symptom.SATURATED, ("saturated", 0.55), severity=Severity.INFO)
    told = weighed(Diagnosis((mild, worse, info)), [moved("saturated-fraction")])
    assert told.findings[:2] == (worse, info)
    assert [one.severity for one in told.findings] == [Severity.CRITICAL, Severity.INFO, Severity.INFO]
    assert weighed(told, []) is told


@pytest.mark.parametrize("name", list(MOVABLE))
def test_what_is_told_because_a_threshold_was_lowered_says_so(name):
    movable, lower = MOVABLE[name], moved(name, 0.5)
    between, usual, below = (
        finding(movable.symptom, (movable.evidence[0], movable.usual * factor)) for factor in (0.7, 1.1, 0.4)
    )
    told = weigh((between, usual), [lower])
    assert [one.severity for one in told] == [Severity.CRITICAL] * 2
    assert told[0].message == f"It is. Told here: {lower}"
    assert told[1] is usual
    assert lower.covers(below)
    assert getattr(limits_of([lower]), movable.limit) == lower.value
    assert getattr(limits_of([moved(name)]), movable.limit) == movable.usual


def network(*parts):
    torch.manual_seed(0)
    return nn.Sequential(*parts)


def mean_square(model, batch):
    return model(batch).square().mean()


def stack(num, width, kind):
    return network(*[m for _ in range(num) for m in (nn.Linear(width, width), kind())], nn.Linear(width, 1))


@pytest.fixture(scope="module")
def two_sigmoids():
    return stack(2, 64, nn.Sigmoid)


def test_a_lowered_one_is_judged_by_and_the_usual_one_is_not(two_sigmoids):
    batches = [torch.randn(64, 64)]
    usual = gradtrace.check(two_sigmoids, mean_square, batches, thresholds={})
    assert usual.healthy
    lower = gradtrace.check(two_sigmoids, mean_square, batches, thresholds={"vanishing-decades": entry(0.5)})
    (found,) = (f for f in lower.findings if f.severity is not Severity.INFO)
    assert found.symptom is Symptom.VANISHING
    assert found.message.endswith("vanishing-decades is 0.5 decades here, and 2 elsewhere: we like it")


def test_fewer_saturated_and_dead_units_are_told_where_a_project_asks_for_it():
    model = network(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    with torch.no_grad():
        model[0].weight.mul_(4.0)
        model[2].bias[:40] -= 50.0
    batches = [torch.randn(128, 32)]
    lowered = {"saturated-fraction": entry(0.2), "dead-fraction": entry(0.55)}
    usual, lower = (gradtrace.check(model, mean_square, batches, thresholds=t) for t in ({}, lowered))
    assert usual.healthy
    assert {f.symptom for f in lower.findings if f.severity is not Severity.INFO} == {
        Symptom.SATURATED, Symptom.DEAD_UNITS
    }  # fmt: skip


def test_a_project_is_heard_wherever_its_network_is_judged(tmp_path, monkeypatch, two_sigmoids):
    """`check`, `watch` and the assertions, without being told."""
    file = tmp_path / "gradtrace.toml"
    file.write_text(f'thresholds.vanishing-decades = {{ value = 0.5, reason = "{WHY}" }}\n')
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    batch = torch.randn(64, 64)
    told = "vanishing-decades is 0.5 decades here, and 2 elsewhere: we like it"
    assert gradtrace.check(two_sigmoids, mean_square, [batch]).moved == (told,)
    with pytest.raises(GradientAssertionError, match=r"allowed are 0\.5 "):
        assert_gradients_flow(two_sigmoids, mean_square, [batch])
    assert_gradients_flow(two_sigmoids, mean_square, [batch], max_decades=3)
    optimizer = torch.optim.SGD(two_sigmoids.parameters(), lr=1e-6)
    with gradtrace.watch(two_sigmoids, optimizer, every=1) as watch:
        for _ in range(2):
            optimizer.zero_grad()
            mean_square(two_sigmoids, batch).backward()
            optimizer.step()
    assert watch.diagnosis.moved == (told,)
    assert watch.run.findings[0].message.endswith(told)
    assert told in watch.run.notes
    file.write_text("thresholds = 3\n")
    with pytest.warns(match=r"the usual thresholds hold: .*gradtrace\.toml: thresholds cannot be 3"):
        gradtrace.watch(two_sigmoids, optimizer).close()
    with pytest.raises(InputError, match="no threshold"):
        gradtrace.watch(two_sigmoids, optimizer, thresholds={"vanishing": entry(1.0)})


@pytest.mark.parametrize(
    ("name", "value", "reason", "sentence"),
    [
        ("vanishing", 3.0, "x", "there is no threshold 'vanishing' that may be moved; there are vanishing-decades"),
        ("vanishing-decades", 3.0, " ", "vanishing-decades is moved without a reason"),
        ("vanishing-decades", 0.0, "x", "must be above 0 and finite, but it is 0"),
        ("vanishing-decades", math.inf, "x", "must be above 0 and finite, but it is inf"),
        ("vanishing-decades", math.nan, "x", "must be above 0 and finite, but it is nan"),
        ("dead-fraction", 1.0, "x", "must be above 0 and below 1, but it is 1"),
    ],
)
def test_what_cannot_be_is_a_sentence(name, value, reason, sentence):
    with pytest.raises(InputError, match=sentence):
        Moved(name, value, reason)
