"""Is a verdict scored as a reader would?"""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import gradtrace
from gradtrace.casebook import CASES
from gradtrace.casebook.__main__ import main
from gradtrace.casebook.case import Case
from gradtrace.casebook.score import lies_in, score, total
from gradtrace.records.finding import Diagnosis, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom

ILL = Case(
    "ill",
    CASES["deep_sigmoid"].build,
    Symptom.VANISHING,
    Cause.SMALL_WEIGHTS,
    ("hidden",),
    "",
    also=((Symptom.SATURATED, Cause.SATURATED_PREACTIVATION),),
)
WELL = Case("well", ILL.build, Symptom.HEALTHY, Cause.NONE, (), "")


def said(symptom: Symptom, cause: Cause, *where: str, severity: Severity = Severity.WARNING) -> Diagnosis:
    return Diagnosis((Finding(symptom, cause, where, severity, ""),))


def test_the_truth_is_right() -> None:
    assert score(ILL, said(Symptom.VANISHING, Cause.SMALL_WEIGHTS, "hidden.linear3", "head")).right
    assert score(WELL, Diagnosis(())).right


def test_what_is_also_defensible_is_right_as_a_pair() -> None:
    assert score(ILL, said(Symptom.SATURATED, Cause.SATURATED_PREACTIVATION, "hidden")).right
    mixed = score(ILL, said(Symptom.VANISHING, Cause.SATURATED_PREACTIVATION, "hidden"))
    assert (mixed.symptom_right, mixed.cause_right) == (True, False)


def test_the_first_finding_that_matters_counts() -> None:
    info = Finding(Symptom.EXPLODING, Cause.LARGE_WEIGHTS, (), Severity.INFO, "")
    second = said(Symptom.VANISHING, Cause.SMALL_WEIGHTS, "hidden").findings
    assert score(ILL, Diagnosis((info, *second))).right
    assert score(WELL, Diagnosis((info,))).right


def test_misses_and_false_alarms() -> None:
    miss, alarm = score(ILL, Diagnosis(())), score(WELL, said(Symptom.VANISHING, Cause.SMALL_WEIGHTS))
    assert miss.missed
    assert not miss.where_right
    assert alarm.false_alarm
    assert not alarm.right
    totals = total([miss, alarm, None], [ILL, WELL, ILL])
    assert (totals.num_cases, totals.num_healthy, totals.misses, totals.false_alarms) == (3, 1, 1, 1)
    assert (totals.symptoms_right, totals.where_right) == (0, 0)


@pytest.mark.parametrize(
    ("where", "accepted", "right"),
    [
        (("a.b",), ("a",), True),
        (("a",), ("a",), True),
        (("ab",), ("a",), False),
        (("c", "a"), ("a",), False),
        ((), ("a",), False),
        ((), (), True),
        (("",), ("",), True),
        (("a",), ("",), False),
    ],
)
def test_where(where: tuple[str, ...], accepted: tuple[str, ...], right: bool) -> None:
    assert lies_in(where, accepted) is right


def test_the_command_prints_json(monkeypatch) -> None:
    monkeypatch.setattr(
        gradtrace, "check", lambda *_, **__: said(Symptom.VANISHING, Cause.SMALL_WEIGHTS, "x"), raising=False
    )
    result = CliRunner().invoke(main, ["--json", "--only", "small_std"])
    assert result.exit_code == 0
    record = json.loads(result.stdout)
    assert record["cases"][0]["verdict"]["cause_right"] is True
    assert record["cases"][0]["verdict"]["where_right"] is False
    assert record["totals"]["num_cases"] == 1


def test_the_command_prints_a_table_and_survives_a_failure(monkeypatch) -> None:
    def broken(*_, **__) -> Diagnosis:
        raise RuntimeError("oh")

    monkeypatch.setattr(gradtrace, "check", broken, raising=False)
    result = CliRunner().invoke(main, ["--only", "small_std"])
    assert result.exit_code == 1
    assert "RuntimeError: oh" in result.stdout
    assert "1 could not be run" in result.stdout


def test_an_unknown_case_is_wrong_usage() -> None:
    result = CliRunner().invoke(main, ["--only", "deep_sigmod"])
    assert result.exit_code == 2
    assert "deep_sigmoid" in result.stderr
