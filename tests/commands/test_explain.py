"""Codes and words: one is told for every finding, and none twice."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from tests.commands.calling import run

from gradtrace.records.codes import USUAL, code_of, meaning_of
from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom
from gradtrace.report.explanation import explain
from gradtrace.report.glossary import WORDS, meanings
from gradtrace.report.measured_by import CAUSES, SYMPTOMS


def test_every_pair_has_a_code_of_its_own():
    pairs = list(itertools.product(Symptom, Cause))
    codes = {code_of(*pair) for pair in pairs}
    assert len(codes) == len(pairs)
    assert all(meaning_of(code_of(*pair)) == pair for pair in pairs)
    assert code_of(Symptom.VANISHING, Cause.ACTIVATION_DERIVATIVE) == "GT101"  # printed codes never change
    assert code_of(Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT) == "GT814"


@pytest.mark.parametrize("code", USUAL)
def test_a_code_says_what_is_seen_and_what_to_change(code):
    result = run("explain", code.lower())
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(code)
    assert "What is seen: " in result.stdout
    assert "\n- " in result.stdout


def test_each_has_a_page_of_the_documentation():
    pages = Path(__file__).parents[2] / "docs" / "codes"
    assert sorted(page.stem for page in pages.glob("GT*.md")) == USUAL
    assert (pages / "index.md").read_text().split("```")[1].split()[2:] == USUAL


@pytest.mark.parametrize(
    ("code", "change"),
    [("GT812", "Raise the learning rate"), ("GT214", "Clip the gradient norm"), ("GT512", "Lower the learning rate")],
)
def test_the_change_fits_the_symptom_too(code, change):
    """A rate of zero is not lowered, and a square that overflows is not scaled up."""
    first = next(line for line in run("explain", code).stdout.splitlines() if line.startswith("- "))
    assert change in first


def test_every_word_is_explained(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    words = [*WORDS, *(value for enum in ("Symptom", "Cause", "Factor", "Severity") for value in meanings(enum))]
    assert {str(cause) for cause in Cause} <= set(words)
    for word in words:
        assert explain(word) is not None, word
    lines = run("explain", "critical", "path").stdout.splitlines()
    assert lines[0] == "critical path"


@pytest.mark.parametrize("enum", [Symptom, Cause, Factor, Severity])
def test_every_value_says_what_it_is(enum):
    assert list(meanings(enum.__name__)) == [str(one) for one in enum]
    assert all(told.endswith(".") for told in meanings(enum.__name__).values())


def test_symptoms_and_causes_say_how_they_are_told_and_what_to_do():
    assert (set(SYMPTOMS), set(CAUSES)) == (set(Symptom), set(Cause))
    for one in (*Symptom, *Cause):
        told = explain(str(one))
        assert any(paragraph.startswith("How it is told: ") for paragraph in told.paragraphs), one
        is_fault = one not in (Symptom.HEALTHY, Cause.NONE)
        assert bool(told.related) == is_fault, one
        if is_fault:
            assert told.remedies or any("What to do depends on the cause" in each for each in told.paragraphs), one
            assert all(explain(code) is not None for code in told.related)


def test_every_pair_is_explained_by_its_code():
    for symptom, cause in itertools.product(Symptom, Cause):
        told = explain(code_of(symptom, cause))
        assert told.title.startswith(code_of(symptom, cause))
        assert told.paragraphs[0].startswith("What is seen: ")
        assert any(each.startswith("How that is told: ") for each in told.paragraphs) == (cause is not Cause.NONE)


def test_what_is_no_word_is_2_and_told():
    result = run("explain", "post_nrom")
    assert result.exit_code == 2
    assert "did you mean 'post_norm'?" in result.stderr


def test_without_a_word_the_codes_are_listed():
    assert [line[:5] for line in run("explain").stdout.splitlines()] == USUAL
