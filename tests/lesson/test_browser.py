"""The lesson in a real browser: drawn, moved by its controls, by keyboard, in the dark, narrow and wide, on paper."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

AXE = Path(__file__).parents[1] / "report" / "html" / "vendor" / "axe.min.js"


def told(page, key: str) -> str:
    return page.locator(f"#{key}-told").inner_text()


def set_control(page, key: str, name: str, value: str) -> None:
    page.locator(f"#{key}-{name}").evaluate(
        "(field, value) => { field.value = value; field.dispatchEvent(new Event('input', { bubbles: true })); }", value
    )
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_every_picture_is_drawn_and_nothing_complains(visit):
    page = visit()
    places = page.locator("[data-plot]").all()
    assert len(places) == 16
    for place in places:
        assert place.get_attribute("data-drawn") == "yes"
        assert place.locator("svg line, svg path, svg rect").count() > 2, place.get_attribute("data-plot")


def test_where_gradtrace_has_measured_the_page_agrees(visit):
    page = visit()
    for key in ("bound", "exploding", "deep", "recurrent"):
        sentence = told(page, key)
        numbers = re.findall(r"[+−][\d.]+\d", sentence)
        assert numbers[-1] == numbers[0], sentence  # what gradtrace measured closes the sentence
        assert page.locator(f"#plot-{key} circle.measured").count() > 10
    lines = page.locator("#plot-chain .lines li").all_inner_texts()
    assert len(lines) == 4
    for line in lines:
        computed, measured = re.findall(r"= ([\d.]+)\s*gradtrace: ([\d.]+)", line.replace("\n", " "))[0]
        assert computed == measured


def test_the_dots_lie_on_the_line(visit):
    page = visit()
    apart = page.evaluate(
        """() => [...document.querySelectorAll("#plot-bound circle.measured")].map((dot) => {
          const line = document.querySelector("#plot-bound path.ink");
          const [x, y] = [dot.cx, dot.cy].map((at) => at.baseVal.value);
          const points = line.getAttribute("d").slice(1).split("L").map((p) => p.split(",").map(Number));
          return Math.min(...points.filter(([a]) => Math.abs(a - x) < 0.5).map(([, b]) => Math.abs(b - y)));
        })"""
    )
    assert len(apart) == 20
    assert max(apart) < 0.2


MOVES = (
    ("bound", "activation", "relu"),
    ("bound", "depth", "40"),
    ("bound", "sigma_w", "0.5"),
    ("bound", "width", "8"),
    ("bound", "seed", "7"),
    ("slopes", "z", "3"),
    ("growth", "sigma_w", "1"),
    ("sizes", "layer", "3"),
    ("compare", "weights", "critical"),
    ("exploding", "depth", "30"),
    ("deep", "alpha", "0.5"),
    ("recurrent", "num_steps", "120"),
    ("chain", "w2", "4"),
)


def test_a_control_moves_its_picture_its_sentence_and_its_table(visit):
    page = visit()
    for key, name, value in MOVES:
        figure, place = page.locator(f"#{key}-figure"), page.locator(f"#plot-{key}")
        figure.locator("details").evaluate("details => { details.open = true; }")
        page.evaluate("new Promise((done) => setTimeout(done))")  # until its table is written
        parts = (place, page.locator(f"#{key}-told"), figure.locator("details table"))
        before = [part.inner_html() for part in parts]
        set_control(page, key, name, value)
        moved = [part.inner_html() != was for part, was in zip(parts, before, strict=True)]
        fixed = key in ("slopes", "growth")  # whose tables are of all activations, and of all scales
        assert moved == [True, True, not fixed], (key, name)


def test_one_form_moves_both_pictures_of_the_deep(visit):
    page = visit()
    before = told(page, "sameness")
    set_control(page, "deep", "depth", "12")
    assert told(page, "sameness") != before
    assert "12 layers" in told(page, "sameness")


def test_a_try_sets_the_controls_exactly_and_shows_the_measurement(visit):
    page = visit()
    page.locator("#growth-figure").get_by_role("button", name="The right answer").click()
    page.locator("#growth-told", has_text="10.15").wait_for()
    for figure in page.locator("figure:has(.tries)").all():
        key = figure.get_attribute("id").removesuffix("-figure")
        if key == "losses":
            continue
        for button in figure.locator(".tries button").all():
            button.click()
            page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            assert told(page, key)
    assert page.locator("#plot-recurrent circle.measured").count() > 10  # the last try was measured


def test_the_chain_is_walked_step_by_step(visit):
    page = visit()
    lines, step = page.locator("#plot-chain .lines li"), page.get_by_role("button", name="One step back")
    page.get_by_role("button", name="Start at the loss").click()
    for count in (1, 2, 3, 4):
        assert lines.count() == count
        assert page.locator("#plot-chain rect.bar").count() == count
        if count < 4:
            step.click()
    assert step.is_disabled()


def test_a_training_runs_in_the_page_and_is_cleared(visit):
    page = visit()
    lines = page.locator("#plot-losses path.line")
    assert lines.count() == 2
    set_control(page, "losses", "depth", "2")
    page.get_by_role("button", name="Train").click()
    page.locator("#losses-controls [type=submit]:enabled").wait_for(timeout=120_000)
    assert lines.count() == 3
    assert page.locator("#plot-updates path.line").count() == 3
    assert "sigmoid, 2 layers" in told(page, "losses")
    page.get_by_role("button", name="Clear").click()
    assert lines.count() == 2


def test_sliders_answer_to_the_keyboard_and_say_their_value(visit):
    page = visit()
    slider = page.locator("#bound-depth")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.locator("output[for=bound-depth]", has_text="21").wait_for()
    assert slider.get_attribute("aria-valuetext") == "21"
    assert (
        page.locator("#bound-controls label").count()
        == page.locator("#bound-controls input, #bound-controls select").count()
    )
    page.locator("#plot-bound svg.chart").focus()
    page.keyboard.press("ArrowRight")
    assert "layer 1" in page.locator("#tip").inner_text()


def test_without_scripts_text_and_tables_remain_and_no_dead_control_shows(visit):
    page = visit(script=False)
    assert page.locator("h2").count() == 13
    assert page.locator("figure table tbody tr").count() > 100
    assert not any(form.is_visible() for form in page.locator("form").all())
    assert not any(button.is_visible() for button in page.locator(".tries button").all())


SMALLEST_TEXT = """() => Math.min(...[...document.querySelectorAll("body *")]
    .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) && e.getClientRects().length)
    .map((e) => parseFloat(getComputedStyle(e).fontSize)))"""


@pytest.mark.parametrize("width", [360, *(pytest.param(width, marks=pytest.mark.long) for width in (768, 3840))])
def test_no_width_needs_sideways_scrolling_and_no_text_is_small(visit, width):
    page = visit(width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(SMALLEST_TEXT) >= 12
    # as where no mathematical font is installed
    page.evaluate("document.querySelectorAll('math').forEach((m) => { m.style.fontFamily = 'sans-serif' })")
    assert page.evaluate(SMALLEST_TEXT) >= 12
    wide = page.evaluate(
        """() => [...document.querySelectorAll("math")].filter((m) => m.getBoundingClientRect().right > innerWidth)
          .map((m) => m.textContent)"""
    )
    assert wide == []


@pytest.mark.parametrize("dark", [True, pytest.param(False, marks=pytest.mark.long)])
def test_axe_finds_nothing_serious(visit, dark):
    page = visit(dark=dark)
    for summary in page.locator("summary").all():
        summary.click()
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in serious] == []


def test_on_paper_pictures_and_sentences_stay_and_controls_go(visit):
    page = visit(width=1440)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#bound-controls").is_hidden()
    assert page.locator("#plot-bound svg").is_visible()
    assert page.locator("#bound-told").is_visible()
    widths = page.locator(".drawing svg").evaluate_all(
        "found => found.map((each) => each.getBoundingClientRect().width)"
    )
    assert max(widths) < 700
