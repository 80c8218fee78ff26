"""Thresholds that a project may move: only upwards, only with a reason, and never silently."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.diagnosis.tolerance import MOVABLE, Tolerance, tolerated
from gradtrace.records.finding import Diagnosis, Evidence, Finding
from gradtrace.records.storage import to_json
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.report.html.page import render
from gradtrace.report.notebook import to_html


def finding(symptom, *evidence, severity=Severity.CRITICAL):
    return Finding(symptom, Cause.SMALL_WEIGHTS, ("a",), severity, "It is.", tuple(Evidence(*one) for one in evidence))


def raised(name, value=None):
    movable = MOVABLE[name]
    return Tolerance(name, value or movable.usual * 1.2, "we like it")


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
    above, below = (tolerated(sigmoids, [raised("vanishing-decades", min(both) + d)]) for d in (0.01, -0.01))
    assert above.healthy
    assert above.findings[-1].message.endswith("and 2 elsewhere: we like it")
    assert below.findings == sigmoids.findings
    assert below.moved == (f"vanishing-decades is {min(both) - 0.01:g} decades here, and 2 elsewhere: we like it",)


def test_it_is_told_wherever_the_diagnosis_is(sigmoids):
    told = tolerated(sigmoids, [raised("dead-fraction")])
    for text in (str(told), to_html(told), render(told), to_json(told)):
        assert "dead-fraction is 0.9 of the units here, and 0.75 elsewhere: we like it" in " ".join(text.split())
    assert "moved" not in str(sigmoids)


@pytest.mark.parametrize("name", list(MOVABLE))
def test_every_one_covers_its_own_symptom_alone(name):
    movable, cover = MOVABLE[name], raised(name)
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
    told = tolerated(Diagnosis((mild, worse, info)), [raised("saturated-fraction")])
    assert told.findings[:2] == (worse, info)
    assert [one.severity for one in told.findings] == [Severity.CRITICAL, Severity.INFO, Severity.INFO]
    assert tolerated(told, []) is told


@pytest.mark.parametrize(
    ("name", "value", "reason", "sentence"),
    [
        ("vanishing", 3.0, "x", "there is no threshold 'vanishing' that may be moved; there are vanishing-decades"),
        ("vanishing-decades", 3.0, " ", "vanishing-decades is moved without a reason"),
        ("vanishing-decades", 2.0, "x", "must be above 2, but it is 2"),
        ("vanishing-decades", math.nan, "x", "must be above 2, but it is nan"),
        ("dead-fraction", 1.0, "x", "must be above 0.75 and below 1, but it is 1"),
    ],
)
def test_what_cannot_be_is_a_sentence(name, value, reason, sentence):
    with pytest.raises(ValueError, match=sentence):
        Tolerance(name, value, reason)
