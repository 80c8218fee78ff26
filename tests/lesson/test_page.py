"""The lesson as text: complete, small, closed by its policy, and with no number in it that nobody computed."""

from __future__ import annotations

import base64
import hashlib
import re
from html import unescape
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.report.html.test_page import Elements, data_of

import gradtrace.lesson
from gradtrace.commands.main import main
from gradtrace.errors import TraceFileError
from gradtrace.lesson import page
from gradtrace.lesson.facts import facts
from gradtrace.lesson.figures import figures
from gradtrace.lesson.page import CHAPTERS, render, write_lesson
from gradtrace.lesson.words import decades, lost, number, percent

TEMPLATES = Path(gradtrace.lesson.__file__).with_name("templates")


def words_of(text: str) -> str:
    body = re.sub(r"(?s)<(script|style|math|table)\b.*?</\1>", " ", text)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_nothing_is_fetched_and_nothing_runs_but_what_the_policy_names(text):
    elements = Elements(text)
    policy = next(a["content"] for tag, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy") or ""
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    for tag, attributes in elements.tags:
        assert tag not in ("img", "iframe", "object", "embed", "link", "base")
        assert not any(key.startswith("on") or key in ("src", "style") for key in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    for kind, held in elements.held:
        if kind != "application/json":
            assert base64.b64encode(hashlib.sha256(held.encode()).digest()).decode() in policy


def test_it_is_small_and_the_same_every_time(lesson, text):
    assert len(text.encode()) < 1_000_000
    assert render(lesson) == text


def test_every_chapter_is_there_in_order(text):
    assert re.findall(r'<section id="([a-z]+)"', text) == [key for key, _ in CHAPTERS]
    assert sorted(path.name.split(".")[0] for path in TEMPLATES.glob("chapters/*")) == sorted(
        key for key, _ in CHAPTERS
    )


def test_every_figure_has_a_table_of_what_was_measured(lesson):
    for key, plot in figures(lesson).items():
        assert plot.table.rows, key
        assert {len(row) for row in plot.table.rows} == {len(plot.table.columns)}, key


def test_no_number_in_the_text_is_typed():
    """What is left of a template without its expressions has no digits but of names and years."""
    for path in sorted(TEMPLATES.glob("chapters/*")):
        left = re.sub(r"(?s)\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}|<[^>]*>", " ", path.read_text(encoding="utf-8"))
        left = re.sub(r"layer 1\b|float16|float32|He et al\. \(2015\)", " ", left)
        assert not re.search(r"\d", left), (path.name, re.findall(r".{0,40}\d.{0,40}", left))


def test_the_sentences_tell_what_was_measured(lesson, text):
    told, networks, relu = words_of(text), lesson.networks, lesson.training["relu"]
    for sentence in (
        f"its gradient loses {lost(networks['sigmoid'].lost_decades)} decades",
        f"The activations did {decades(networks['sigmoid'].activations_lost_decades)} of it",
        f"{facts('sigmoid').layers_to_thousandth} layers leave less than a thousandth",
        f"it says {number(0.25**19)}; gradtrace measured",
        f"{lost(networks['sigmoid_naive'].lost_decades)} decades are lost all the same",
        f"{percent(networks['sigmoid_critical'].saturated_frac[9])} of the units of layer 10 are saturated",
        f"the loss falls from {number(relu.losses[0])} to {number(relu.losses[-1])}",
        f"layers of ReLU lose {lost(networks['relu_pytorch'].lost_decades)} decades",
        f"lose {lost(networks['deep_low'].lost_decades)} decades",
        f"the gradient grows by {lost(networks['deep_skip'].lost_decades)} decades",
        f"10 steps change the gradient by {decades(lesson.recurrent['short'].decades[0])} decades",
        f"the activations explain {decades(lesson.repair.shares.shares[0].decades)} decades",
        f"the best change to {number(lesson.repair.best.end)}",
        f"trained again on {len(lesson.repair.best.confirmation)} seeds",
    ):
        assert sentence in told


def test_the_numbers_of_the_page_are_those_that_were_measured(lesson, text):
    data = data_of(text)
    for kept in data["bound"]["measured"]:
        (measured,) = [one for one in lesson.networks.values() if one.setting.as_dict() == kept["setting"]]
        assert kept["decades"] == pytest.approx(measured.decades, rel=1e-5, abs=1e-5)
    assert data["losses"]["measured"][1]["losses"] == pytest.approx(lesson.training["relu"].losses, rel=1e-5)
    assert len(data["functions"]) == len(page.NAMES)


def test_the_file_is_written_whole_or_not_at_all(lesson, tmp_path, monkeypatch):
    import gradtrace.lesson.measurement

    monkeypatch.setattr(gradtrace.lesson.measurement, "measure_lesson", lambda: lesson)
    result = CliRunner().invoke(main, ["lesson", "-o", str(tmp_path / "x.html")])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tmp_path / "x.html")
    assert (tmp_path / "x.html").read_text(encoding="utf-8") == render(lesson)
    with pytest.raises(TraceFileError, match="cannot write"):
        write_lesson(tmp_path / "no" / "x.html")
    result = CliRunner().invoke(main, ["lesson", "-o", str(tmp_path / "no" / "x.html")])
    assert result.exit_code == 2
    assert "cannot write" in result.output
