"""The page in a real browser: drawn, hovered, clicked, folded, zoomed, in the dark, narrow and wide, by keyboard."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pytest
from tests.report.html.pages import NASTY, PAGES
from tests.report.html.records import SPIKE_STEP
from tests.report.samples import chain

from gradtrace.records.storage import save
from gradtrace.report.html.server import ReportServer

AXE = Path(__file__).with_name("vendor") / "axe.min.js"


@pytest.mark.parametrize("name", PAGES)
def test_every_plot_is_drawn_and_nothing_complains(visit, name):
    page = visit(name)
    for folded in page.locator("details.folded > summary").all():  # the flow of a plain chain
        folded.click()
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    for place in page.locator("[data-plot]").all():
        marks = place.locator("svg rect, svg path, svg line, svg circle, canvas")
        assert marks.count() > 0, place.get_attribute("data-plot")
        assert place.get_attribute("data-drawn") == "yes"


def test_every_section_is_there(visit):
    page = visit("run")
    keys = page.locator("main > section").evaluate_all("found => found.map((section) => section.id)")
    assert keys == ["findings", "waterfall", "flow", "activations", "formats", "time", "run", "provenance"]
    kinds = page.locator("[data-plot]").evaluate_all("found => found.map((place) => place.dataset.kind)")
    assert {"waterfall", "flow", "curves", "formats", "series", "timemap", "exponents", "steps", "runmap"} == set(kinds)


@pytest.mark.parametrize("name", ["sigmoids", "transformer", "run", "nasty"])
def test_a_table_with_the_numbers_stands_beside_every_plot(visit, name):
    page = visit(name)
    for figure in page.locator("figure.plot").all():
        assert figure.locator("table tbody tr th[scope=row]").count() > 0
        figure.locator(".numbers-table summary").click()
        assert figure.locator(".scroll").is_visible()


def test_without_scripts_the_tables_remain(visit):
    page = visit("sigmoids", script=False)
    assert page.locator("h1").inner_text()
    assert page.locator("figure table tbody tr").count() > 20


def hover(page, place):
    """Scrolling hides the tip: scroll first, and let two pictures pass."""
    place.scroll_into_view_if_needed()
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    place.hover(force=True)


# --------------------------------------------------------------------------------------------------------- waterfall


def test_the_bars_of_the_waterfall_have_the_lengths_of_the_gains(visit):
    page = visit("vanishing")
    data = json.loads(page.locator("#data").text_content())["waterfall"]
    rows = page.locator(".waterfall tbody tr")
    leaf = next(i for i, line in enumerate(data["lines"]) if line[6] == 0 and line[1] == 5)
    bars = rows.locator(f"xpath=self::*[@data-line='{leaf}']").locator("rect.step")
    widths = [float(bar.get_attribute("width")) for bar in bars.all()]
    gains = [abs(gain) for gain in data["rows"]["gains"][5] if abs(gain) >= 0.005]
    assert widths[0] / widths[1] == pytest.approx(gains[0] / gains[1], rel=1e-3)


def test_hovering_a_row_tells_its_numbers(visit):
    page = visit("vanishing")
    hover(page, page.locator(".waterfall tbody tr", has=page.get_by_text(".7", exact=True)))
    tip = page.locator("#tip")
    assert tip.is_visible()
    assert "layers.7" in tip.inner_text()
    assert "activations a'" in tip.inner_text()
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_a_click_folds_and_unfolds_a_module(visit):
    page = visit("vanishing")
    rows = page.locator(".waterfall tbody tr")
    before = rows.count()
    page.locator("tr[aria-expanded=true]").first.click()
    assert rows.count() < before
    page.locator("tr[aria-expanded=false]").first.click()
    assert rows.count() == before


def test_the_waterfall_is_walked_and_folded_by_keyboard(visit):
    page = visit("vanishing")
    rows = page.locator(".waterfall tbody tr")
    before = rows.count()
    page.locator(".waterfall tbody tr[tabindex='0']").focus()
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.dataset.line") == rows.last.get_attribute("data-line")
    page.keyboard.press("ArrowLeft")  # to the parent
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    page.keyboard.press("ArrowLeft")
    assert rows.count() < before
    page.keyboard.press("ArrowRight")
    assert rows.count() == before


def test_a_thousand_layers_are_folded_at_first_and_unfold(visit):
    page = visit("thousand")
    rows = page.locator(".waterfall tbody tr")
    assert rows.count() <= 60
    page.get_by_role("button", name="Unfold all").click()
    assert rows.count() > 1000


# -------------------------------------------------------------------------------------------------------------- flow


def test_a_click_marks_the_critical_path_up_to_the_loss(visit):
    page = visit("transformer")
    boxes = page.locator(".box")
    boxes.last.click()
    assert page.locator(".box:not(.dim)").count() > 1
    assert page.locator(".way.critical-way").count() == page.locator(".box:not(.dim)").count() - 1
    assert "dim" not in (boxes.first.get_attribute("class") or "")  # the loss is on every path
    page.get_by_role("button", name="Show all ways").click()
    assert page.locator(".box.dim, .way.critical-way").count() == 0


def test_a_way_tells_gain_cosine_and_norms(visit):
    page = visit("transformer")
    hover(page, page.locator("[data-way='0'] path").first)
    told = page.locator("#tip").inner_text()
    for word in ("share of the sum", "cos to the sum", "|this way|", "|sum|", "merge gain"):
        assert word in told


def test_query_key_and_value_are_ways_of_their_own(visit):
    page = visit("transformer")
    labels = " ".join(page.locator(".box").evaluate_all("found => found.map((box) => box.getAttribute('aria-label'))"))
    assert {"query", "key", "value"} <= set(re.findall(r"query|key|value", labels))


def test_no_box_of_the_flow_covers_another(visit):
    page = visit("transformer")
    boxes = page.locator(".box rect").evaluate_all(
        "found => found.map((r) => r.getBBox()).map((b) => [b.x, b.y, b.x + b.width, b.y + b.height])"
    )
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert a[2] <= b[0] + 0.5 or b[2] <= a[0] + 0.5 or a[3] <= b[1] + 0.5 or b[3] <= a[1] + 0.5


# ---------------------------------------------------------------------------------------------------------------- run


def brush(page):
    picture = page.locator("[data-kind=steps] .chart").first
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.5, steps=4)
    page.mouse.up()


def test_a_brush_zooms_every_picture_of_the_run(visit):
    page = visit("run")
    wide = page.locator("[data-kind=runmap] .heat canvas").first.get_attribute("width")
    brush(page)
    first, last = (int(field.input_value()) for field in page.locator("form.tools input").all())
    assert 100 < first < last < 260
    narrow = page.locator("[data-kind=runmap] .heat canvas").first.get_attribute("width")
    assert int(narrow) == last - first + 1 < int(wide)
    page.get_by_role("button", name="All steps").click()
    assert page.locator("[data-kind=runmap] .heat canvas").first.get_attribute("width") == wide


def test_steps_can_be_typed_and_the_map_walked_by_keyboard(visit):
    page = visit("run")
    fields = page.locator("form.tools input")
    fields.first.fill("130")
    fields.last.fill("140")
    page.get_by_role("button", name="Show").click()
    canvas = page.locator("[data-kind=runmap] .heat canvas").first
    assert canvas.get_attribute("width") == "11"
    canvas.focus()
    for key, times in (("ArrowDown", 7), ("ArrowRight", SPIKE_STEP - 130)):
        for _ in range(times):
            page.keyboard.press(key)
    told = page.locator("#tip").inner_text()
    assert "layers.7.weight" in told
    assert str(SPIKE_STEP) in told
    assert "inf" in told


@pytest.mark.parametrize("name", ["run", "thousand"])
def test_a_spike_of_one_step_in_one_layer_is_a_pixel_of_its_own_colour(visit, name):
    page = visit(name)
    red = page.evaluate("gt.colour('critical')")
    canvas = page.locator("[data-kind=runmap] .heat canvas").first
    found = canvas.evaluate(
        """(canvas, red) => {
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let count = 0;
          for (let i = 0; i < data.length; i += 4)
            if (red.every((c, k) => data[i + k] === c)) count += 1;
          return count;
        }""",
        red,
    )
    box = canvas.bounding_box()
    assert found == 1
    assert int(canvas.get_attribute("height")) <= box["height"] + 1  # no cell is smaller than a pixel
    assert int(canvas.get_attribute("width")) <= box["width"] + 1


def test_an_event_tells_what_happened(visit):
    page = visit("run")
    hover(page, page.locator(".mark.resumed path").first)
    assert "from </script><b>checkpoint" in page.locator("#tip").inner_text()


@pytest.mark.long
def test_a_live_page_shows_what_is_new_and_stays_where_it_was(browser, tmp_path):
    path = tmp_path / "trace.json.gz"
    save(chain(30, 0.2, 0.5, "sigmoid"), path)
    page = browser.new_page(viewport={"width": 1000, "height": 500})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    with ReportServer(path) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        page.goto(server.url)
        page.wait_for_selector("html[data-ready=yes]", state="attached")
        page.evaluate("scrollTo({ top: 700, behavior: 'instant' })")
        page.wait_for_timeout(3500)  # the page asks every three seconds: now it knows what it has seen
        save(chain(31, 0.2, 0.5, "sigmoid", name="later.{}"), path)
        page.locator(".waterfall", has_text="later").wait_for()
        page.wait_for_timeout(200)
        assert page.evaluate("scrollY") == 700
        assert page.locator("#live").inner_text() == "Live: on"
        page.close()
        server.shutdown()
    assert complaints == []


# ------------------------------------------------------------------------------------------------------- for everyone


def or_long(*values):
    """A parameter set that `make test` leaves out."""
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.mark.parametrize(
    ("name", "width"),
    [("run", 360), ("nasty", 360), ("run", 3840), or_long("nasty", 3840), or_long("transformer", 360),
     or_long("transformer", 768), or_long("run", 768), or_long("run", 1440), or_long("dead", 360)],
)  # fmt: skip
def test_no_width_needs_sideways_scrolling_and_no_text_is_small(visit, name, width):
    page = visit(name, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    smallest = page.evaluate(
        """() => Math.min(...[...document.querySelectorAll("body *")]
          .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) && e.getClientRects().length)
          .map((e) => parseFloat(getComputedStyle(e).fontSize)))"""
    )
    assert smallest >= 12


@pytest.mark.parametrize(
    ("name", "dark"),
    [("transformer", False), ("healthy", True), or_long("run", False), or_long("run", True), or_long("nasty", True),
     or_long("transformer", True), or_long("dead", False), or_long("dead", True), or_long("healthy", False)],
)  # fmt: skip
def test_axe_finds_nothing_serious(visit, name, dark):
    page = visit(name, dark=dark)
    for summary in page.locator("summary").all():
        summary.click()
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in serious] == []


def test_dark_is_dark_and_every_factor_is_told_apart(visit):
    light, dark = (visit("transformer", dark=dark) for dark in (False, True))
    paper = [page.evaluate("gt.colour('paper').reduce((a, b) => a + b)") for page in (light, dark)]
    assert paper[0] > 700 > 200 > paper[1]
    for page in (light, dark):
        colours = page.evaluate(
            "['activation','weight','norm','attention','merge','paper'].map((c) => gt.colour(c).join())"
        )
        assert len(set(colours)) == 6


def test_printing_shows_the_pictures_and_hides_the_controls(visit):
    page = visit("transformer")
    page.emulate_media(media="print")
    assert page.locator(".contents").is_hidden()
    assert page.locator(".copy").first.is_hidden() if page.locator(".copy").count() else True
    assert page.locator(".waterfall").is_visible()


def test_paper_is_white_in_dark_mode_too(visit):
    """Text, lines and canvases: all are drawn anew in the colours of the light page, and back."""
    page = visit("run", dark=True)
    look = """() => [gt.colour('paper').join(), gt.colour('weight').join(),
                     getComputedStyle(document.querySelector('.masthead')).backgroundColor,
                     document.querySelector('#formats canvas').getContext('2d').getImageData(0, 0, 1, 1).data.join()]"""
    dark = page.evaluate(look)
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    paper, weight, masthead, cell = page.evaluate(look)
    assert (paper, weight, masthead, cell) == ("255,255,255", "0,114,178", "rgb(252, 235, 233)", "255,255,255,255")
    page.emulate_media(media="screen", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(look) == dark


def test_pictures_fit_on_paper(visit):
    page = visit("run", width=1440)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    widths = "found => found.map((each) => each.getBoundingClientRect().width)"
    assert max(page.locator(".drawing svg, .drawing canvas").evaluate_all(widths)) < 700  # 210 mm less its margins
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert max(page.locator(".drawing svg").evaluate_all(widths)) > 900


def test_code_is_copied_or_at_least_selected(visit):
    page = visit("vanishing")
    page.locator(".copy").first.click()
    page.locator(".copy", has_text=re.compile("Copied|Selected")).first.wait_for()
    if page.locator(".copy").first.inner_text() == "Selected":
        assert "nn.ReLU()" in page.evaluate("getSelection().toString()")


# ---------------------------------------------------------------------------------------------------------- injection


def test_names_with_markup_show_as_text(visit):
    page = visit("nasty")
    assert page.locator("img, iframe, object, embed, link").count() == 0
    assert page.locator("script").count() == page.locator("script").evaluate_all(
        "all => all.filter((s) => !s.src).length"
    )
    assert page.locator("[onclick], [onerror]").count() == 0
    assert NASTY in page.locator(".brand .title").inner_text()
    names = page.locator(".waterfall .label").all_inner_texts()
    assert any("<script>alert(0)</script>" in name for name in names)


def test_the_policy_stops_what_gets_in_by_another_way(browser, written):
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(written("healthy").as_uri())
    page.evaluate(
        "const s = document.createElement('script'); s.textContent = 'window.got = 1'; document.body.append(s)"
    )
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.got = 1\">')")
    page.evaluate("fetch('https://example.org/').catch(() => {})")
    page.wait_for_timeout(100)
    assert page.evaluate("window.got") is None
    assert sum("Content Security Policy" in text for text in said) >= 3
    page.close()
